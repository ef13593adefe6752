package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"time"
)

// The instance metadata service answers what can be told apart only by asking: a
// version that it does not know is status 400, and without extended=true a host
// may leave members out without a word.
const (
	imdsCurrent = "/metadata/instance?api-version=2021-08-01&extended=true"
	imdsOlder   = "/metadata/instance?api-version=2019-06-01" // Azure Stack
)

const (
	imdsConnectLimit = 2 * time.Second
	imdsReadLimit    = 5 * time.Second
	imdsFirstPause   = 100 * time.Millisecond
	imdsLongestPause = time.Second
	imdsLaterLimit   = 10 * time.Second // at boots after the first
	imdsTriesNoRoute = 3                // connection errors without a route to it: no such service here
	imdsTriesBroken  = 3                // answers that are not what was asked for
)

// errNoIMDS is a network without a metadata service.
var errNoIMDS = errors.New("no metadata service here")

// imdsClient talks to the metadata service.
type imdsClient struct {
	http *httpClient
	log  func(string)
	said string
}

func (m *machine) newIMDS() *imdsClient {
	c := &imdsClient{http: newHTTPClient(ipAddrPort{platformAddresses[1], 80}), log: func(text string) { m.log.note("imds", text) }}
	c.http.connectLimit, c.http.readLimit = imdsConnectLimit, imdsReadLimit
	return c
}

// get does one request. The id is new with each, so that the host's logs can
// tell them apart.
func (c *imdsClient) get(ctx context.Context, target string) (*httpResponse, error) {
	id := sprintf("%08x-%04x-4%03x-%04x-%012x", rand.Uint32(), rand.Uint32()>>16, rand.Uint32()>>20, 0x8000|rand.Uint32()>>18, rand.Uint64()>>16)
	return c.http.do(ctx, &httpRequest{method: "GET", target: target, header: []httpHeader{{"Metadata", "true"}, {"x-ms-client-request-id", id}}})
}

// retry says why there is another try, once for each reason, and pauses: for as
// long as the server asks, else for pause.
func (c *imdsClient) retry(ctx context.Context, err error, pause time.Duration) {
	if text := err.Error(); text != c.said && ctx.Err() == nil {
		c.said = text
		c.log(text + "; trying again")
	}
	var se *statusError
	if errors.As(err, &se) && se.retryAfter > 0 {
		pause = se.retryAfter
	}
	sleep(ctx, pause)
}

// sleep waits without outliving ctx.
func sleep(ctx context.Context, t time.Duration) {
	timer := time.NewTimer(t)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// imdsStatus turns an answer that is no success into an error. Final is one that
// no later try will better.
func imdsStatus(target string, resp *httpResponse) (final bool, err error) {
	se := &statusError{status: resp.status, retryAfter: parseRetryAfter(resp.get("Retry-After"), time.Now())}
	hint := ""
	switch resp.status {
	case 200:
		return false, nil
	case 401, 403:
		final, hint = true, "does the image lack the guest proxy agent that this VM needs?"
	case 404, 408, 410, 429, 500, 502, 503, 504:
	default:
		final = true
	}
	return final, failureHint("GET", "http://"+platformAddresses[1].String()+target, se, hint)
}

// instance asks for the VM's metadata until they come, it is clear that they
// never will, or ctx is done. Routed says whether the lease leads to the service.
func (c *imdsClient) instance(ctx context.Context, routed bool) (*metadata, error) {
	target := imdsCurrent
	pause := imdsFirstPause
	unreached, broken := 0, 0
	for tries := 1; ; tries++ {
		var md *metadata
		resp, err := c.get(ctx, target)
		switch {
		case err != nil && errors.Is(err, errConnect) && !routed:
			if unreached++; unreached == imdsTriesNoRoute {
				return nil, failure("ask for instance metadata", "", errorf("%w: %w", errNoIMDS, err))
			}
		case err != nil:
		case resp.status == 400 && target == imdsCurrent:
			target = imdsOlder
			continue
		case resp.status == 200:
			if md, err = parseIMDS(resp.body); err == nil {
				return md, nil
			}
			if broken++; broken == imdsTriesBroken {
				return nil, failure("parse instance metadata", "", err)
			}
		default:
			var final bool
			if final, err = imdsStatus(target, resp); final {
				return nil, err
			}
		}
		c.retry(ctx, err, pause)
		if ctx.Err() != nil {
			return nil, failureHint("ask for instance metadata", "", err, sprintf("%d tries", tries))
		}
		pause = min(2*pause, imdsLongestPause)
	}
}

// imdsSource is the metadata service as a source of the spec.
type imdsSource struct{}

const sourceIMDS = "imds"

func (imdsSource) name() string { return sourceIMDS }

// read asks for imds.wait when there is a medium, which holds all that is needed;
// else for as long as imds.deadline.
func (imdsSource) read(ctx context.Context, b *boot) (*spec, string, error) {
	if !b.cfg.IMDS {
		return nil, "", nil
	}
	ctx, cancel := b.sourceTime(ctx)
	defer cancel()
	c := b.newIMDS()
	defer c.http.close()
	md, err := c.instance(ctx, b.lease == nil || b.lease.leadsToIMDS())
	if err != nil {
		return nil, "", err
	}
	b.imds = md
	return &md.Spec, md.summary(), nil
}

// leadsToIMDS says whether the platform has given a route to the metadata
// service, which it does wherever there is one. Whoever configured an interface
// without DHCP has not told.
func (le *lease) leadsToIMDS() bool {
	for _, r := range le.Routes {
		if r.Dst.Bits() == 32 && r.Dst.Addr() == platformAddresses[1] {
			return true
		}
	}
	return le.Configured
}

func (md *metadata) summary() string {
	text := []string{sprintf("%d keys", len(md.Spec.Keys))}
	if md.Spec.HostName != "" {
		text = append(text, "host name "+oneLine(md.Spec.HostName, 64))
	}
	if len(md.UserData) > 0 {
		text = append(text, sprintf("%d bytes of user data", len(md.UserData)))
	}
	if md.PPSType != "" && md.PPSType != "None" {
		text = append(text, "pool type "+oneLine(md.PPSType, 30))
	}
	return strings.Join(text, ", ")
}
