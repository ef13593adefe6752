package main

// secret is a text that must never be printed. Its String and JSON forms are
// "[redacted]"; wipe overwrites the bytes.
type secret []byte

const redacted = "[redacted]"

func (s secret) String() string {
	if len(s) == 0 {
		return ""
	}
	return redacted
}

func (s secret) wipe() { clear(s[:cap(s)]) }

// sshKey is one public key that a source asks for. Value is an authorized_keys
// line (options allowed); when it is empty the key is known only by the SHA-1
// fingerprint (40 upper-case hex digits) of a certificate.
type sshKey struct {
	Value       string
	Fingerprint string
	Path        string // authorized_keys file asked for; may hold $HOME; may be empty
	Source      string // where it came from: "dvd", "imds"
}

// keyPair is a private key that the platform's certificates hold, and the file
// that it belongs in.
type keyPair struct {
	Fingerprint string
	Path        string
}

// spec is what the VM was created with, as far as one source knows it. Empty
// fields are unknown; a nil pointer is an absent switch.
type spec struct {
	Source              string // name of the source: "dvd", "imds"
	HostName            string
	UserName            string
	Password            secret
	DisablePasswordAuth *bool
	Keys                []sshKey
	KeyPairs            []keyPair
	CustomData          secret // decoded bytes; nil if there is none

	ProvisionGuestAgent *bool
	ProvisionProxyAgent bool
	// Preprovisioned is "", "Running", "Savable" or "PreprovisionedOSDisk".
	Preprovisioned string
	// Notes names what was odd but harmless in the source: unknown elements,
	// doubled elements with equal text.
	Notes []string
}

// passwordAuth says whether sshd should accept passwords, and whether the
// sources want anything at all: the negation of
// DisableSshPasswordAuthentication, else yes if there is a password, else no
// opinion.
func (s *spec) passwordAuth() (allow, known bool) {
	if s.DisablePasswordAuth != nil {
		return !*s.DisablePasswordAuth, true
	}
	return len(s.Password) > 0, len(s.Password) > 0
}

// wipe overwrites every secret of the spec.
func (s *spec) wipe() {
	s.Password.wipe()
	s.CustomData.wipe()
}
