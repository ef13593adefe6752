// Go reads its CPU limits from cgroup files at every start unless told not to.

//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

// Command azprov provisions an Azure Linux VM without an agent: it reads the
// provisioning DVD, gets a DHCP lease, applies account, keys, host name and
// custom data below one root directory, and reports Ready to the wire server.
//
// It is one static binary that starts no other program. The whole boot is the
// table in plan; azprov plan prints it.
package main

import (
	"os"
	"time"
)

// Exit codes.
const (
	exitOK             = 0 // provisioned, or nothing to do
	exitFailed         = 1 // provisioning failed
	exitUsage          = 2 // usage or configuration
	exitNotAzure       = 3 // not an Azure VM
	exitUnacknowledged = 4 // applied, but Azure has not acknowledged Ready
)

// plan is the whole boot. A step may only need and want what stands above it.
func plan(cfg *config) []step {
	script := step{name: "script", about: "run the custom data, if that is wanted and it is a script",
		needs: []string{"customdata", "user", "ssh", "sshd", "hostname", "records"}, wants: []string{"lease", "certs", "metadata"},
		weight: bestEffort, when: everyBoot, run: (*boot).stepScript}
	ready := step{name: "ready", about: "report Ready, or why not, to the wire server and by KVP",
		needs:  []string{"mark", "spec", "user", "hostname", "lease", "goalstate", "ssh", "certs", "hostkeys", "sshd", "customdata", "records"},
		wants:  []string{"publish", "resolv", "imds", "provisiondata", "metadata", "entropy", "timeouts", "console"},
		weight: contact, when: unacknowledged, last: true, run: (*boot).stepReady}

	disk := step{name: "disk", about: "resource disk: find, judge, format if it holds nothing, mount; swap",
		weight: bestEffort, when: everyBoot, run: (*boot).stepDisk}
	ready.wants = append(ready.wants, disk.name) // its outcome is in the report
	script.wants = append(script.wants, disk.name)
	if cfg.ResourceNeeded {
		disk.weight = required
	}

	imds := step{name: "imds", about: "ask the metadata service",
		needs:  []string{"lease"},
		weight: bestEffort, when: firstBoot, run: readSource(fromIMDS)}
	interfaces := step{name: "interfaces", about: "name and configure the other network interfaces",
		needs:  []string{"lease"},
		weight: bestEffort, when: everyBoot, run: (*boot).stepInterfaces}
	if cfg.asksAlways() {
		imds.when, interfaces.wants = everyBoot, []string{imds.name}
	}

	steps := []step{
		{name: "entropy", about: "random bytes of the host, and a saved seed, into the kernel's generator",
			weight: bestEffort, when: everyBoot, run: (*boot).stepEntropy},
		{name: "timeouts", about: "SCSI and NVMe timeouts of the host's disks and of the root's",
			weight: bestEffort, when: everyBoot, run: (*boot).stepTimeouts},
		{name: "console", about: "/dev/console and a login on the serial port, where that is wanted",
			weight: bestEffort, when: everyBoot, run: (*boot).stepConsole},
		disk,
		{name: "state", about: "look up what was done before, for which instance",
			weight: required, when: firstBoot, run: (*boot).stepState},
		{name: "mark", about: "note on disk that this instance is being provisioned",
			needs:  []string{"state"},
			weight: required, when: firstBoot, run: (*boot).stepMark},
		{name: "media", about: "find the DVD and read ovf-env.xml",
			weight: required, when: firstBoot, run: readSource(fromMedium)},
		{name: "link", about: "find the network interfaces and bring them up",
			weight: contact, when: everyBoot, run: (*boot).stepLink},
		{name: "lease", about: "DHCP with the host name in its first packet: primary interface, address, routes, MTU",
			needs: []string{"link"}, wants: []string{"media"},
			patience: func(c *config) time.Duration { return c.HostnameWait },
			weight:   contact, when: everyBoot, run: (*boot).stepLease},
		imds,
		{name: "provisiondata", about: "ask the wire server for provisioning data, if that is wanted",
			needs:  []string{"lease"},
			weight: bestEffort, when: firstBoot, run: readSource(fromWireServer)},
		{name: "spec", about: "what this VM was created with: the DVD, else the metadata service",
			needs: []string{"state", "media"}, wants: []string{"provisiondata", "imds"},
			enough: func(b *boot) bool { return b.medium != nil && b.document == nil },
			weight: required, when: firstBoot, run: (*boot).stepSpec},
		{name: "transport", about: "transport certificate, if a key is known by fingerprint alone",
			needs:  []string{"spec"},
			weight: required, when: firstBoot, run: (*boot).stepTransport},
		{name: "hostname", about: "host name: kernel, /etc/hostname, /etc/hosts",
			needs:  []string{"state", "spec"},
			weight: required, when: firstBoot, run: (*boot).stepHostname},
		{name: "user", about: "account, password, groups, sudo",
			needs: []string{"state", "spec"}, wants: []string{"entropy"},
			weight: required, when: firstBoot, run: (*boot).stepUser},
		{name: "resolv", about: "name servers of the lease in /etc/resolv.conf",
			needs:  []string{"lease"},
			weight: bestEffort, when: everyBoot, run: (*boot).stepResolv},
		{name: "publish", about: "publish a host name that DHCP did not wait for",
			needs:  []string{"lease", "hostname"},
			weight: bestEffort, when: firstBoot, run: (*boot).stepPublish},
		{name: "goalstate", about: "fetch the goal state from the wire server",
			needs:  []string{"lease"},
			weight: contact, when: unacknowledged, run: (*boot).stepGoalState},
		{name: "ssh", about: "authorized keys",
			needs:  []string{"user"},
			weight: required, when: firstBoot, run: (*boot).stepSSH},
		{name: "certs", about: "keys and key pairs that the wire server has certificates of",
			needs: []string{"goalstate", "transport", "ssh"}, wants: []string{"imds"},
			enough:   func(b *boot) bool { return b.transport == nil },
			patience: func(c *config) time.Duration { return c.IMDSWait },
			weight:   required, when: firstBoot, run: (*boot).stepCertificates},
		{name: "hostkeys", about: "SSH host keys, but for RSA",
			needs: []string{"state", "spec"}, wants: []string{"entropy"},
			weight: required, when: everyBoot, run: (*boot).stepHostKeys},
		{name: "sshd", about: "password logins of sshd or dropbear on or off",
			needs:  []string{"hostkeys"},
			weight: required, when: firstBoot, run: (*boot).stepSSHD},
		{name: "customdata", about: "store the custom data",
			needs:  []string{"state", "spec"},
			weight: required, when: firstBoot, run: (*boot).stepCustomData},
		{name: "metadata", about: "what the metadata service adds to the DVD: keys, user data",
			needs:  []string{"imds", "ssh", "sshd", "customdata"},
			weight: required, when: firstBoot, run: (*boot).stepMetadata},
		{name: "records", about: "what other software of the image looks for in /var/lib/waagent",
			needs:  []string{"state", "spec"},
			weight: required, when: firstBoot, run: (*boot).stepRecords},
	}
	// RSA takes long, and what the platform does with fingerprints is unknown:
	// Ready waits for neither. Where the network is slow, RSA is made beside it.
	rsakey := step{name: "rsakey", about: "RSA host key; all fingerprints to console and host",
		needs: []string{"hostkeys"}, wants: []string{"sshd", "transport", "ready"},
		patience: func(*config) time.Duration { return 100 * time.Millisecond },
		weight:   bestEffort, when: everyBoot, run: (*boot).stepRSAKey}
	fingerprint := step{name: "fingerprint", about: "fingerprints of the host keys to the wire server",
		needs: []string{"ready"}, wants: []string{"rsakey"},
		weight: bestEffort, when: unacknowledged, run: (*boot).stepFingerprint}
	if cfg.CustomDataWhen == "before" {
		ready.needs = append(ready.needs, script.name)
		steps = append(steps, script, ready)
	} else {
		script.needs = append(script.needs, ready.name)
		steps = append(steps, ready, script)
	}
	// Nor does it wait for what only the guest itself has use for.
	steps = append(steps, rsakey, fingerprint, interfaces,
		step{name: "ipv6", about: "IPv6 addresses by DHCPv6 where there are any",
			needs: []string{"lease"}, wants: []string{"imds", "interfaces"},
			weight: bestEffort, when: everyBoot, run: (*boot).stepIPv6},
		step{name: "handover", about: "files for what configures the network from now on",
			needs: []string{"lease"}, wants: []string{"interfaces", "publish"},
			weight: bestEffort, when: everyBoot, run: (*boot).stepHandover})
	if cfg.HostnameFollow {
		steps = append(steps, step{name: "follow", about: "take a host name that has been changed in Azure",
			needs: []string{"lease"}, wants: []string{"imds"},
			weight: bestEffort, when: everyBoot, run: (*boot).stepFollow})
	}
	if cfg.Network == "release" {
		steps = append(steps, step{name: "release", about: "take back what was done to the network",
			wants:  []string{"ready", "fingerprint", "script", "interfaces", "ipv6", "handover", "resolv", "publish"},
			weight: bestEffort, when: everyBoot, run: (*boot).stepRelease})
	}
	return steps
}

func main() {
	if startedAsInit(os.Args, os.Getpid()) {
		os.Exit(initCommand(os.Args[1:], os.Stderr))
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr, time.Now()))
}
