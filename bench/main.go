// Command bench measures azprov beside a bare program that does nothing but one
// DHCP exchange, goal state and health report: each in a fresh sandbox of
// azuresim, in turns, from exec to the Ready that the platform acknowledges, and
// in a virtual machine from the kernel's first word on. Then it measures azprov's
// formatter beside mke2fs. It prints medians and writes what it measured to
// build/bench.json.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"azprov/sim"
)

// run is one measurement.
type run struct {
	ReadyMS float64 `json:"ready_ms"` // exec to Ready acknowledged
	TotalMS float64 `json:"total_ms"` // exec to exit
	CPUMS   float64 `json:"cpu_ms"`
	RSSKB   int64   `json:"rss_kb"`
}

const description = `{"hostname": "bench-01", "user": "opsadmin", "password": "Tr1cky <pass> & more", "disablePasswordAuthentication": false,
 "sshKeys": [{"value": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ3TrnLVhHVaYsAjSyQfWLhSHnOLUkgJuFT5Q4RV7Iv1 ops@desk"},
             {"value": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHRoaXMtaXMtYS1zYW1wbGUtbm90LWEtcmVhbC1rZXkh ops@phone"}],
 "customData": "#cloud-config\npackages: [htop]\n"}`

func main() {
	rounds := flag.Int("rounds", 15, "measurements of each program in the sandbox")
	boots := flag.Int("boots", 5, "boots of each initramfs")
	format := flag.Bool("format", false, "measure the formatter alone")
	certificates := flag.Bool("certificates", false, "measure keys by fingerprint alone")
	flag.Parse()
	var err error
	switch {
	case *format:
		_, err = benchFormat()
	case *certificates:
		err = benchCertificatesAlone(*rounds)
	default:
		err = bench(*rounds, *boots)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func bench(rounds, boots int) error {
	dir, unmount, err := freshDisk()
	if err != nil {
		return err
	}
	defer unmount()
	vm := filepath.Join(dir, "vm.json")
	if err := os.WriteFile(vm, []byte(description), 0o600); err != nil {
		return err
	}
	many := filepath.Join(dir, "vm8.json")
	if err := os.WriteFile(many, []byte(strings.TrimSuffix(description, "}")+`,"nics":[{},{},{},{},{},{},{}]}`), 0o600); err != nil {
		return err
	}
	programs := []struct {
		name, vm, file string
		args           []string
	}{{"bare", vm, "build/bare", nil}, {"azprov", vm, "azprov", nil}, {"no imds", vm, "azprov", []string{"-imds", "no"}}, {"8 nics", many, "azprov", nil}, {"no keys", vm, "azprov", []string{"-skip", "hostkeys"}}}
	results := map[string][]run{}
	for i := range rounds + 1 {
		for _, p := range programs {
			r, err := measure(filepath.Join(dir, fmt.Sprintf("%s-%d", p.name, i)), p.vm, p.file, p.args...)
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			if i > 0 { // the first round warms the caches
				results[p.name] = append(results[p.name], r)
			}
		}
	}
	fmt.Printf("%-8s %12s %12s %10s %10s   medians of %d runs in turns\n", "", "Ready ms", "exit ms", "CPU ms", "RSS MB", rounds)
	for _, p := range programs {
		r := results[p.name]
		fmt.Printf("%-8s %12.1f %12.1f %10.1f %10.1f\n", p.name, median(r, func(r run) float64 { return r.ReadyMS }), median(r, func(r run) float64 { return r.TotalMS }),
			median(r, func(r run) float64 { return r.CPUMS }), median(r, func(r run) float64 { return float64(r.RSSKB) / 1000 }))
	}
	ready := func(r run) float64 { return r.ReadyMS }
	fmt.Printf("ratio of exec to Ready: %.2f (limit 2.5)\n", median(results["azprov"], ready)/median(results["bare"], ready))
	without := median(results["no imds"], ready)
	fmt.Printf("with the metadata service, 1 and 8 interfaces, to 1 without it: %.2f, %.2f (limit 1.3)\n", median(results["azprov"], ready)/without, median(results["8 nics"], ready)/without)
	certificates, err := benchCertificates(dir, rounds)
	if err != nil {
		return err
	}
	memory, err := benchMemory(dir, vm)
	if err != nil {
		return err
	}
	fmt.Printf("least memory limit of a control group in which azprov provisions: %d MB (limit 12)\n", memory)
	booted := map[string][]float64{}
	if boots > 0 {
		if booted, err = benchBoot(boots); err != nil {
			return err
		}
		self := func(v float64) float64 { return v }
		bare, ours := median(booted["bare"], self), median(booted["azprov"], self)
		fmt.Printf("kernel start to Ready in a virtual machine: bare %.2f s, azprov %.2f s, ratio %.2f (limit 1.10), medians of %d boots\n", bare, ours, ours/bare, boots)
	}
	formats, err := benchFormat()
	if err != nil {
		return err
	}
	data, err := json.MarshalIndent(map[string]any{"sandbox": results, "certificates_ms": certificates, "boot_seconds": booted, "memory_mb": memory, "format": formats}, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile("build/bench.json", data, 0o644)
}

// freshDisk mounts a new ext4 image, like the disk of a new VM, from memory: every
// fsync goes through the file system's journal, and what else this machine writes
// at the time is not measured. (On a disk in use ext4 also walks one by one over
// inodes that were freed in the last minutes, by a build say.)
func freshDisk() (dir string, unmount func(), err error) {
	top, err := os.MkdirTemp("/dev/shm", "azprov-bench-")
	if err != nil {
		return "", nil, err
	}
	image, dir := filepath.Join(top, "disk"), filepath.Join(top, "mnt")
	unmount = func() {
		exec.Command("umount", dir).Run()
		os.RemoveAll(top)
	}
	if err = os.Mkdir(dir, 0o700); err == nil {
		err = os.WriteFile(image, nil, 0o600)
	}
	if err == nil {
		err = os.Truncate(image, 512<<20)
	}
	for _, c := range [][]string{{"mke2fs", "-q", "-t", "ext4", "-N", "131072", "-F", image}, {"mount", "-o", "loop", image, dir}} {
		if err == nil {
			if out, cmdErr := exec.Command(c[0], c[1:]...).CombinedOutput(); cmdErr != nil {
				err = fmt.Errorf("%s: %w: %s", c[0], cmdErr, out)
			}
		}
	}
	if err != nil {
		unmount()
		return "", nil, err
	}
	return dir, unmount, nil
}

func median[T any](list []T, f func(T) float64) float64 {
	var v []float64
	for _, r := range list {
		v = append(v, f(r))
	}
	slices.Sort(v)
	return v[len(v)/2]
}

// measure runs a program in a fresh sandbox and reads the platform's log.
func measure(dir, vm, program string, args ...string) (run, error) {
	cmd := exec.Command("./azuresim", append([]string{"sandbox", "-vm", vm, "-dir", dir, "-bind", program + ":/opt/program", "--", "/opt/program"}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return run{}, fmt.Errorf("%w: %s", err, out)
	}
	f, err := os.Open(filepath.Join(dir, "platform.jsonl"))
	if err != nil {
		return run{}, err
	}
	defer f.Close()
	events, err := sim.ReadEvents(f)
	if err != nil {
		return run{}, err
	}
	var r run
	var start int64
	for _, e := range events {
		since := float64(e.Mono-start) / 1e6
		switch {
		case e.Type == "start":
			start = e.Mono
		case e.Type == "exit":
			r.TotalMS, r.CPUMS, r.RSSKB = since, e.CPU, e.RSS
		case e.State == "Ready" && e.Status/100 == 2:
			r.ReadyMS = since
		}
	}
	if r.ReadyMS == 0 {
		return run{}, fmt.Errorf("the platform saw no Ready")
	}
	return r, nil
}
