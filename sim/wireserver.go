package sim

import (
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// maxDescription is the wire server's limit for a health description, in bytes
// of the escaped document.
const maxDescription = 4096

// wire is the wire server.
func (p *Platform) wire(w http.ResponseWriter, r *http.Request) {
	vm := p.byAddress(r.RemoteAddr)
	if vm == nil {
		http.Error(w, "no such vm", http.StatusForbidden)
		return
	}
	q := r.URL.Query()
	version := r.Header.Get("x-ms-version")
	switch {
	case r.URL.Path == "/" && q.Get("comp") == "versions":
		io.WriteString(w, xml.Header+"<Versions><Preferred><Version>2015-04-05</Version></Preferred><Supported><Version>2015-04-05</Version><Version>2012-11-30</Version></Supported></Versions>")
	case r.URL.Path == "/provisioning/health" && r.Method == "POST":
		p.healthJSON(w, r, vm)
	case strings.HasPrefix(r.URL.Path, "/provisiondata") && vm.ProvisionData != "" && q.Get("api-version") != "":
		p.provisionData(w, r, vm)
	case strings.TrimSuffix(r.URL.Path, "/") != "/machine" && !strings.HasPrefix(r.URL.Path, "/machine/"):
		http.NotFound(w, r)
	case version != "2012-11-30" && version != "2015-04-05":
		http.Error(w, "x-ms-version is missing or unknown", http.StatusBadRequest)
	case q.Get("comp") == "goalstate" && r.URL.Path == "/machine/":
		w.Header().Set("Content-Type", "text/xml; charset=utf-8")
		io.WriteString(w, vm.goalState())
	case q.Get("comp") == "health" && r.Method == "POST" && r.URL.Path == "/machine":
		p.healthXML(w, r, vm)
	case q.Get("comp") == "roleProperties" && r.Method == "POST" && r.URL.Path == "/machine":
		p.roleProperties(w, r, vm)
	case q.Get("comp") == "telemetrydata" && r.Method == "POST":
	case q.Get("comp") == "config":
		io.WriteString(w, vm.config(q.Get("type")))
	case q.Get("comp") == "certificates":
		p.serveCertificates(w, r, vm)
	default:
		http.NotFound(w, r)
	}
}

func (vm *VM) goalState() string {
	url := func(query string) string {
		return fmt.Sprintf("http://%s:80/machine/%s/%s?%s&amp;incarnation=%d", WireServerAddress, vm.ContainerID,
			strings.NewReplacer("-", "%2D", "_", "%5F").Replace(vm.InstanceID), query, vm.Incarnation)
	}
	name := strings.ReplaceAll(vm.InstanceID, "._", ".0._") + ".1.xml"
	return xml.Header + `<GoalState xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:noNamespaceSchemaLocation="goalstate10.xsd">` +
		"<Version>2012-11-30</Version><Incarnation>" + fmt.Sprint(vm.Incarnation) + "</Incarnation>" +
		"<Machine><ExpectedState>Started</ExpectedState><StopRolesDeadlineHint>300000</StopRolesDeadlineHint><LBProbePorts><Port>16001</Port></LBProbePorts><ExpectHealthReport>FALSE</ExpectHealthReport></Machine>" +
		"<Container><ContainerId>" + vm.ContainerID + "</ContainerId><RoleInstanceList><RoleInstance><InstanceId>" + vm.InstanceID + "</InstanceId><State>Started</State><Configuration>" +
		"<HostingEnvironmentConfig>" + url("comp=config&amp;type=hostingEnvironmentConfig") + "</HostingEnvironmentConfig>" +
		"<SharedConfig>" + url("comp=config&amp;type=sharedConfig") + "</SharedConfig>" +
		"<ExtensionsConfig>" + url("comp=config&amp;type=extensionsConfig") + "</ExtensionsConfig>" +
		"<FullConfig>" + url("comp=config&amp;type=fullConfig") + "</FullConfig>" +
		"<Certificates>" + url("comp=certificates") + "</Certificates>" +
		"<ConfigName>" + name + "</ConfigName></Configuration></RoleInstance></RoleInstanceList></Container></GoalState>"
}

func (vm *VM) config(kind string) string {
	switch kind {
	case "hostingEnvironmentConfig":
		return xml.Header + `<HostingEnvironmentConfig version="1.0.0.0" goalStateIncarnation="` + fmt.Sprint(vm.Incarnation) + `"><StoredCertificates></StoredCertificates></HostingEnvironmentConfig>`
	case "sharedConfig":
		return xml.Header + `<SharedConfig version="1.0.0.0" goalStateIncarnation="` + fmt.Sprint(vm.Incarnation) + `"><Deployment name="sim" guid="{` + vm.ContainerID + `}"></Deployment></SharedConfig>`
	}
	return xml.Header + "<Extensions version=\"1.0.0.0\" goalStateIncarnation=\"" + fmt.Sprint(vm.Incarnation) + "\"></Extensions>"
}

// healthReport is the document of a health report.
type healthReport struct {
	XMLName     xml.Name `xml:"Health"`
	Incarnation string   `xml:"GoalStateIncarnation"`
	ContainerID string   `xml:"Container>ContainerId"`
	Roles       []struct {
		InstanceID string `xml:"InstanceId"`
		State      string `xml:"Health>State"`
		Sub        string `xml:"Health>Details>SubStatus"`
		Text       string `xml:"Health>Details>Description"`
	} `xml:"Container>RoleInstanceList>Role"`
}

// healthXML judges a report as strictly as the real server may.
func (p *Platform) healthXML(w http.ResponseWriter, r *http.Request, vm *VM) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<16))
	var h healthReport
	if err == nil {
		err = xml.Unmarshal(body, &h)
	}
	switch {
	case err != nil || len(h.Roles) != 1:
		http.Error(w, "not a health report", http.StatusBadRequest)
	case h.ContainerID != vm.ContainerID || h.Roles[0].InstanceID != vm.InstanceID || h.Incarnation != fmt.Sprint(vm.Incarnation):
		http.Error(w, "ResourceGone", http.StatusGone)
	case escapedDescription(body) > maxDescription:
		http.Error(w, "description too long", http.StatusBadRequest)
	default:
		role := h.Roles[0]
		p.health(w, vm, role.State, role.Sub, role.Text, http.StatusOK)
	}
}

// escapedDescription is the length of the description as it stands in the document.
func escapedDescription(body []byte) int {
	_, rest, found := strings.Cut(string(body), "<Description>")
	if !found {
		return 0
	}
	text, _, _ := strings.Cut(rest, "</Description>")
	return len(text)
}

func (p *Platform) healthJSON(w http.ResponseWriter, r *http.Request, vm *VM) {
	var h struct {
		State   string
		Details struct{ SubStatus, Description string }
	}
	if err := readJSON(r.Body, &h); err != nil {
		http.Error(w, "not a health report", http.StatusBadRequest)
		return
	}
	p.health(w, vm, h.State, h.Details.SubStatus, h.Details.Description, http.StatusCreated)
}

// health takes a sound report.
func (p *Platform) health(w http.ResponseWriter, vm *VM, state, sub, text string, status int) {
	sound := state == "Ready" && sub == "" || state == "NotReady" && (sub == "Provisioning" || sub == "ProvisioningFailed")
	if a, is := w.(*answer); is {
		a.event.State, a.event.Sub, a.event.Text = state, sub, text
		a.event.Name = p.nameOf(vm) // what DNS knows at this moment
	}
	if !sound {
		http.Error(w, "unknown state", http.StatusBadRequest)
		return
	}
	if state == "Ready" {
		p.mu.Lock()
		first := p.ready[vm].IsZero()
		if first {
			p.ready[vm] = time.Now()
		}
		p.mu.Unlock()
		if first {
			p.assignLater(vm)
		}
	}
	w.WriteHeader(status)
}

// roleProperties takes what an agent tells of its role: names with values.
func (p *Platform) roleProperties(w http.ResponseWriter, r *http.Request, vm *VM) {
	var doc struct {
		XMLName     xml.Name `xml:"RoleProperties"`
		ContainerID string   `xml:"Container>ContainerId"`
		InstanceID  string   `xml:"Container>RoleInstances>RoleInstance>Id"`
		Properties  []struct {
			Name  string `xml:"name,attr"`
			Value string `xml:"value,attr"`
		} `xml:"Container>RoleInstances>RoleInstance>Properties>Property"`
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<16))
	if err == nil {
		err = xml.Unmarshal(body, &doc)
	}
	var list []string
	sound := strings.HasPrefix(r.Header.Get("Content-Type"), "text/xml") && len(doc.Properties) > 0
	for _, d := range doc.Properties {
		list = append(list, d.Name+"="+d.Value)
		sound = sound && d.Name != "" && d.Value != ""
	}
	switch {
	case err != nil || !sound:
		http.Error(w, "not role properties", http.StatusBadRequest)
	case doc.ContainerID != vm.ContainerID || doc.InstanceID != vm.InstanceID:
		http.Error(w, "ResourceGone", http.StatusGone)
	default:
		if a, is := w.(*answer); is {
			a.event.Props = list
		}
		w.WriteHeader(http.StatusAccepted)
	}
}
