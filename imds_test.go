package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// imdsDocument has the members that other agents read of the real service.
const imdsDocument = `{"compute":{"azEnvironment":"AzurePublicCloud","customData":"","location":"westeurope","name":"edge-fra-07_1a2b",
 "osProfile":{"adminUsername":"opsadmin","computerName":"edge-fra-07","disablePasswordAuthentication":"true"},"platformFaultDomain":"0",
 "publicKeys":[{"keyData":"` + keyEd25519 + ` ops@desk","path":"/home/opsadmin/.ssh/authorized_keys"},{"keyData":"ssh-rsa\r\n AAAA\r\n","path":"/x"}],
 "userData":"aGVs\nbG8","vmId":"4f6d2c1a-90ab-4cde-8f01-23456789abcd"},
 "extended":{"compute":{"hasCustomData":"true","ppsType":"Savable"}},
 "network":{"interface":[{"ipv4":{"ipAddress":[{"privateIpAddress":"10.1.0.4","publicIpAddress":""},{"privateIpAddress":"10.1.0.5"}],
 "subnet":[{"address":"10.1.0.0","prefix":"20"}]},"ipv6":{"ipAddress":[{"privateIpAddress":"fd00::4"}]},"macAddress":"6045BD12AB34"},
 {"macAddress":"nonsense"},7]}}`

func TestParseIMDS(t *testing.T) {
	md, err := parseIMDS([]byte(imdsDocument))
	if err != nil {
		t.Fatal(err)
	}
	s := md.Spec
	if s.HostName != "edge-fra-07" || s.UserName != "opsadmin" || s.DisablePasswordAuth == nil || !*s.DisablePasswordAuth || s.Preprovisioned != poolSavable || !md.HasCustomData {
		t.Errorf("%+v %+v", md, s)
	}
	if len(s.Keys) != 2 || s.Keys[0].Value != keyEd25519+" ops@desk" || s.Keys[1].Value != "ssh-rsa AAAA" || s.Keys[0].Source != "imds" {
		t.Errorf("keys %+v", s.Keys)
	}
	if string(md.UserData) != "hello" || md.VMID != "4f6d2c1a-90ab-4cde-8f01-23456789abcd" {
		t.Errorf("user data %q, vm id %s", []byte(md.UserData), md.VMID)
	}
	if len(md.Interfaces) != 1 || md.Interfaces[0].MAC.String() != "60:45:bd:12:ab:34" ||
		!slices.Equal(md.Interfaces[0].IPv4, []ipPrefix{must(parsePrefix("10.1.0.4/20")), must(parsePrefix("10.1.0.5/20"))}) ||
		!slices.Equal(md.Interfaces[0].IPv6, []ipAddr{must(parseAddr("fd00::4"))}) {
		t.Errorf("interfaces %+v", md.Interfaces)
	}
	if text := indentJSON(md.json()); strings.Contains(text, "hello") || !strings.Contains(text, `"user_data_bytes": 5`) {
		t.Error(text)
	}
}

// A key may stand there as a certificate.
func TestIMDSKeyOfCertificate(t *testing.T) {
	need(t, "openssl", "ssh-keygen")
	dir := t.TempDir()
	command(t, "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=key", "-keyout", dir+"/key", "-out", dir+"/crt")
	if err := os.Chmod(dir+"/key", 0o600); err != nil {
		t.Fatal(err)
	}
	crt, err := os.ReadFile(dir + "/crt")
	if err != nil {
		t.Fatal(err)
	}
	md, err := parseIMDS([]byte(encodeJSON(object{{"compute", object{{"publicKeys", []any{object{{"keyData", strings.ReplaceAll(string(crt), "\n", "\r\n")}}}}}}})))
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Fields(command(t, "ssh-keygen", "-y", "-f", dir+"/key"))
	if len(md.Spec.Keys) != 1 || strings.Join(strings.Fields(md.Spec.Keys[0].Value), " ") != want[0]+" "+want[1] {
		t.Errorf("%+v, ssh-keygen says %s", md.Spec.Keys, want)
	}
}

func TestParseIMDSTakesOtherForms(t *testing.T) {
	for doc, want := range map[string]string{
		`{"compute":{"osProfile":{"disablePasswordAuthentication":true}},"extended":{"compute":{"hasCustomData":true,"ppsType":"None"}}}`: "true true ",
		`{"compute":{"osProfile":{"disablePasswordAuthentication":"FALSE"}},"extended":{"compute":{"hasCustomData":0}}}`:                  "false false ",
		`{"compute":null,"network":[],"extended":7}`:                        "nil false ",
		`{"compute":{"publicKeys":{"keyData":"x"},"osProfile":["a"]}}`:      "nil false ",
		`{"extended":{"compute":{"ppsType":"Running"}}}`:                    "nil false Running",
		`{"extended":{"compute":{"ppsType":"SomethingNew"}}}`:               "nil false ",
		`{"compute":{"publicKeys":[{"keyData":""},null,"x",{"path":"y"}]}}`: "nil false ",
	} {
		md, err := parseIMDS([]byte(doc))
		if err != nil {
			t.Errorf("%s: %v", doc, err)
			continue
		}
		disable := "nil"
		if p := md.Spec.DisablePasswordAuth; p != nil {
			disable = encodeJSON(*p)
		}
		if got := disable + " " + encodeJSON(md.HasCustomData) + " " + md.Spec.Preprovisioned; got != want || len(md.Spec.Keys) > 0 {
			t.Errorf("%s: %q, want %q; keys %v", doc, got, want, md.Spec.Keys)
		}
	}
	for _, doc := range []string{"", "[]", `"text"`, "null", "<html>", `{"compute":{`} {
		if _, err := parseIMDS([]byte(doc)); err == nil {
			t.Errorf("%q is taken", doc)
		}
	}
}

func FuzzIMDS(f *testing.F) {
	f.Add([]byte(imdsDocument))
	f.Add([]byte(`{"network":{"interface":[{"macAddress":"00-0D-3A-04-75-98","ipv4":{"subnet":[{"prefix":"99"}]}}]}}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		md, err := parseIMDS(doc)
		if err != nil {
			return
		}
		if len(md.Spec.Keys) > maxIMDSKeys || len(md.Interfaces) > maxIMDSInterfaces || len(md.UserData) > maxCustomData {
			t.Errorf("%d keys, %d interfaces, %d bytes", len(md.Spec.Keys), len(md.Interfaces), len(md.UserData))
		}
		for _, n := range md.Interfaces {
			for _, p := range n.IPv4 {
				if !p.IsValid() || !p.Addr().Is4() {
					t.Errorf("address %v", p)
				}
			}
		}
		if _, err := decodeJSON([]byte(encodeJSON(md.json()))); err != nil {
			t.Error(err)
		}
		if _, err := parseOVF(md.Spec.ovf()); err != nil && md.Spec.HostName != "" && md.Spec.UserName != "" {
			t.Errorf("the document made of it: %v", err)
		}
	})
}

// imdsAt is a client of a test's server.
func imdsAt(t *testing.T, handler http.HandlerFunc) (*imdsClient, *[]string) {
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return clientTo(s.Listener.Addr())
}

func clientTo(addr net.Addr) (*imdsClient, *[]string) {
	var said []string
	return &imdsClient{http: newHTTPClient(must(parseAddrPort(addr.String()))), log: func(text string) { said = append(said, text) }}, &said
}

func TestIMDSRequest(t *testing.T) {
	ids := map[string]bool{}
	c, _ := imdsAt(t, func(w http.ResponseWriter, r *http.Request) {
		ids[r.Header.Get("x-ms-client-request-id")] = true
		if r.Method != "GET" || r.Header.Get("Metadata") != "true" || r.Header.Get("X-Forwarded-For") != "" || !strings.HasPrefix(r.UserAgent(), "azprov/") {
			t.Errorf("%s %v", r.Method, r.Header)
		}
		if len(ids) == 1 {
			w.WriteHeader(429)
			return
		}
		if r.URL.RawQuery != "api-version=2021-08-01&extended=true" {
			t.Errorf("asked for %s", r.URL)
		}
		w.Write([]byte(imdsDocument))
	})
	md, err := c.instance(context.Background(), true)
	if err != nil || md.Spec.UserName != "opsadmin" || len(ids) != 2 {
		t.Errorf("%v, %d ids", err, len(ids))
	}
	for id := range ids {
		if len(id) != 36 || id[14] != '4' || swapUUID(swapUUID(id)) != id {
			t.Errorf("%q is no UUID", id)
		}
	}
}

func TestIMDSFaults(t *testing.T) {
	ok := func(w http.ResponseWriter) { w.Write([]byte(`{"compute":{"osProfile":{"adminUsername":"u"}}}`)) }
	status := func(code int) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) { w.WriteHeader(code) }
	}
	after := func(value string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			w.Header().Set("Retry-After", value)
			w.WriteHeader(503)
		}
	}
	body := func(text string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) { w.Write([]byte(text)) }
	}
	for name, c := range map[string]struct {
		answers []func(http.ResponseWriter) // the last one stays
		tries   int
		fails   string // part of the error; "" for success
	}{
		"404 then there":           {[]func(http.ResponseWriter){status(404), status(410), ok}, 3, ""},
		"every transient status":   {[]func(http.ResponseWriter){status(408), status(500), status(502), status(504), ok}, 5, ""},
		"retry-after zero":         {[]func(http.ResponseWriter){after("0"), ok}, 2, ""},
		"retry-after garbage":      {[]func(http.ResponseWriter){after("soon"), after("-5"), after("Sun, 06 Nov 1994 08:49:37 GMT"), ok}, 4, ""},
		"version unknown":          {[]func(http.ResponseWriter){status(400), ok}, 2, ""},
		"both versions unknown":    {[]func(http.ResponseWriter){status(400)}, 2, "http status 400"},
		"forbidden":                {[]func(http.ResponseWriter){status(403)}, 1, "guest proxy agent"},
		"method":                   {[]func(http.ResponseWriter){status(405)}, 1, "http status 405"},
		"redirect":                 {[]func(http.ResponseWriter){status(302)}, 1, "http status 302"},
		"garbage twice":            {[]func(http.ResponseWriter){body("<html>"), body("[]"), ok}, 3, ""},
		"garbage for ever":         {[]func(http.ResponseWriter){body("{")}, 3, "parse instance metadata"},
		"more than 1 MiB, then ok": {[]func(http.ResponseWriter){body(strings.Repeat(" ", maxHTTPBody+1)), ok}, 2, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tries := 0
			client, said := imdsAt(t, func(w http.ResponseWriter, r *http.Request) {
				if older := r.URL.Query().Get("extended") == ""; older != (strings.Contains(name, "version") && tries > 0) {
					t.Errorf("try %d asked for %s", tries+1, r.URL)
				}
				c.answers[min(tries, len(c.answers)-1)](w)
				tries++
			})
			md, err := client.instance(context.Background(), true)
			if tries != c.tries || (err == nil) != (c.fails == "") || err == nil && md.Spec.UserName != "u" {
				t.Errorf("%d tries, want %d: %v", tries, c.tries, err)
			}
			if err != nil && !strings.Contains(err.Error(), c.fails) {
				t.Errorf("%v lacks %q", err, c.fails)
			}
			if tries > 1 && !strings.Contains(name, "version") && len(*said) == 0 {
				t.Error("it was not said why there was another try")
			}
		})
	}
}

func TestIMDSNobodyListens(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	c, _ := clientTo(l.Addr())
	if _, err := c.instance(context.Background(), false); !errors.Is(err, errNoIMDS) {
		t.Errorf("without a route: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 400*time.Millisecond)
	defer cancel()
	if _, err := c.instance(ctx, true); err == nil || errors.Is(err, errNoIMDS) || !strings.Contains(err.Error(), "connection refused") || !strings.Contains(err.Error(), "tries)") {
		t.Errorf("with a route: %v", err)
	}
}

func TestLeaseLeadsToIMDS(t *testing.T) {
	host := route{Dst: must(parsePrefix("169.254.169.254/32"))}
	if !(&lease{Routes: []route{{Dst: must(parsePrefix("0.0.0.0/0"))}, host}}).leadsToIMDS() || (&lease{Routes: []route{{Dst: must(parsePrefix("0.0.0.0/0"))}}}).leadsToIMDS() ||
		!(&lease{Configured: true}).leadsToIMDS() {
		t.Error("the route to the metadata service is misjudged")
	}
}

func TestShowIMDS(t *testing.T) {
	file := t.TempDir() + "/doc"
	if err := os.WriteFile(file, []byte(imdsDocument), 0o600); err != nil {
		t.Fatal(err)
	}
	o, err := (&arguments{}).showFile("imds", file)
	if err != nil || o.text("pps_type") != "Savable" {
		t.Errorf("%v %v", o, err)
	}
}
