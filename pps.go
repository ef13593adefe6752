package main

// The kinds of pre-provisioned VMs.
const (
	poolRunning = "Running"
	poolSavable = "Savable"
	poolOSDisk  = "PreprovisionedOSDisk"
)

// poolType is the kind of a pre-provisioned VM by what a source says: its name
// for the kind, and whether it says that there is one at all.
func poolType(kind string, pool bool) string {
	switch {
	case poolRank(kind) > 0:
		return kind
	case pool:
		return poolRunning
	}
	return ""
}

// poolRank orders the kinds for sources that differ; 0 is none.
func poolRank(kind string) int {
	switch kind {
	case poolRunning:
		return 1
	case poolOSDisk:
		return 2
	case poolSavable:
		return 3
	}
	return 0
}
