package sim

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// imdsVersions are the API versions that the metadata service knows.
var imdsVersions = []string{"2017-08-01", "2019-06-01", "2021-01-01", "2021-02-01", "2021-05-01", "2021-08-01", "2021-12-13", "2023-11-15"}

func readJSON(r io.Reader, v any) error {
	return json.NewDecoder(io.LimitReader(r, 1<<16)).Decode(v)
}

// imds is the metadata service.
func (p *Platform) imds(w http.ResponseWriter, r *http.Request) {
	vm := p.byAddress(r.RemoteAddr)
	q := r.URL.Query()
	path, under := strings.CutPrefix(strings.TrimSuffix(r.URL.Path, "/"), "/metadata")
	known := false
	for _, v := range imdsVersions {
		known = known || q.Get("api-version") == v
	}
	fail := func(status int, text string) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(map[string]any{"error": text, "newest-versions": imdsVersions})
	}
	switch {
	case vm == nil:
		fail(http.StatusForbidden, "no such vm")
	case !under:
		fail(http.StatusNotFound, "Not found")
	case r.Method != "GET":
		fail(http.StatusMethodNotAllowed, "Method not allowed")
	case !strings.EqualFold(r.Header.Get("Metadata"), "true"):
		fail(http.StatusBadRequest, "Bad request. Required metadata header not specified or not correct")
	case r.Header.Get("X-Forwarded-For") != "":
		fail(http.StatusBadRequest, "Bad request. Request was forwarded")
	case path == "/versions":
		json.NewEncoder(w).Encode(map[string]any{"apiVersions": imdsVersions})
	case !known:
		fail(http.StatusBadRequest, "Bad request. api-version is invalid or was not specified in the request.")
	case path == "/reprovisiondata":
		if doc := p.reprovisionData(vm); doc != nil {
			w.Header().Set("Content-Type", "application/xml; charset=utf-8")
			w.Write(doc)
			return
		}
		fail(http.StatusNotFound, "Not found")
	case path == "/instance" || strings.HasPrefix(path, "/instance/"):
		doc := vm.instance()
		if q.Get("extended") != "true" {
			delete(doc, "extended")
		}
		var node any = doc
		for name := range strings.SplitSeq(strings.TrimPrefix(path, "/instance"), "/") {
			if name == "" {
				continue
			}
			m, is := node.(map[string]any)
			if !is || m[name] == nil {
				fail(http.StatusNotFound, "Not found")
				return
			}
			node = m[name]
		}
		if text, is := node.(string); is && q.Get("format") == "text" {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			io.WriteString(w, text)
			return
		}
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		json.NewEncoder(w).Encode(node)
	default:
		fail(http.StatusNotFound, "Not found")
	}
}

// instance is the VM's metadata document with all that provisioning reads of it.
func (vm *VM) instance() map[string]any {
	if v, err := vm.with(vm.IMDS); err == nil {
		vm = v
	}
	keys := []any{}
	for _, k := range vm.SSHKeys {
		if k.Value != "" {
			keys = append(keys, map[string]any{"keyData": k.Value, "path": "/home/" + vm.User + "/.ssh/authorized_keys"})
		}
	}
	pps := vm.PreprovisionedVMType
	switch {
	case pps == "" && vm.PreprovisionedVM:
		pps = "Running"
	case pps == "":
		pps = "None"
	}
	data, _ := vm.customData()
	return map[string]any{
		"compute": map[string]any{
			"azEnvironment": "AzurePublicCloud", "location": "westeurope", "name": vm.Hostname, "vmId": vm.VMID, "vmSize": "Standard_D2ads_v6", "osType": "Linux",
			"customData": "", "userData": base64.StdEncoding.EncodeToString([]byte(vm.UserData)), "zone": "", "platformFaultDomain": "0", "platformUpdateDomain": "0", "publicKeys": keys,
			"osProfile": map[string]any{"adminUsername": vm.User, "computerName": vm.Hostname, "disablePasswordAuthentication": fmt.Sprint(*vm.DisablePasswordAuthentication)},
		},
		"extended": map[string]any{"compute": map[string]any{"hasCustomData": fmt.Sprint(len(data) > 0), "ppsType": pps}},
		"network":  vm.network(),
	}
}
