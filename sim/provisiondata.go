package sim

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"
)

// provisionData is the draft's replacement of the medium: the document, or one of
// the two values that it leaves out.
func (p *Platform) provisionData(w http.ResponseWriter, r *http.Request, vm *VM) {
	p.mu.Lock()
	done := !p.ready[vm].IsZero()
	p.mu.Unlock()
	value := strings.TrimPrefix(r.URL.Path, "/provisiondata")
	data, _ := vm.customData()
	switch {
	case done:
		http.NotFound(w, r)
	case value == "" && vm.ProvisionData == "xml":
		w.Write(vm.OVF())
	case value == "":
		doc := vm.instance()
		extended := doc["extended"].(map[string]any)["compute"].(map[string]any)
		extended["hasAdminPassword"] = vm.Password != ""
		json.NewEncoder(w).Encode(doc)
	case value == "/adminPassword" && vm.Password != "":
		io.WriteString(w, vm.Password)
	case value == "/customData" && len(data) > 0:
		io.WriteString(w, base64.StdEncoding.EncodeToString(data))
	default:
		http.NotFound(w, r)
	}
}
