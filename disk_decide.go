package main

// verdict is what becomes of a resource disk.
type verdict int

const (
	diskKeep   verdict = iota // left as it is
	diskMount                 // mounted, without a change
	diskFormat                // partitioned and formatted, then mounted
	diskRefuse                // left alone, with a warning
)

func (v verdict) String() string { return [...]string{"keep", "mount", "format", "refuse"}[v] }

// diskSigns is the set of what was seen of a disk and what the configuration says
// about it.
type diskSigns uint32

const (
	signMounted   diskSigns = 1 << iota // it is mounted at the mount point
	signBusy                            // someone else holds it
	signReadOnly                        // it can't be written
	signSmall                           // it is smaller than minResourceDisk
	signUnread                          // reading it failed
	signCutOff                          // a marker of a format that did not end
	signOurs                            // azprov's partition holds a file system with azprov's label
	signLabel                           // one Linux file system with the label of resource disks
	signDamaged                         // the file system can't be mounted
	signReformat                        // resourcedisk.reformat=damaged
	signNamed                           // resourcedisk names this device
	signLinux                           // one Linux file system
	signTorn                            // the partition table contradicts itself or something else
	signTable                           // there is a partition table
	signMany                            // more than one partition
	signNTFS                            // one NTFS file system
	signFresh                           // which holds nothing but what Azure puts there
	signKnown                           // something else that is known by name
	signBlank                           // no partition, and zeros wherever it was looked
	signFormatOff                       // resourcedisk.fs=none
)

// diskRule is a row of the decision table.
type diskRule struct {
	signs   diskSigns // all of them were seen
	verdict verdict
	why     string
}

// diskRules is the whole decision: the first row whose signs were all seen counts.
// What no row names, and what can't be judged, is refused by the last.
var diskRules = []diskRule{
	{signMounted, diskKeep, "it is mounted at the mount point"},
	{signBusy, diskKeep, "it is in use: mounted elsewhere, swap, or held by device mapper, RAID or a program"},
	{signReadOnly, diskRefuse, "it can't be written"},
	{signSmall, diskRefuse, "it is smaller than 64 MiB"},
	{signUnread, diskRefuse, "it can't be read"},
	{signCutOff, diskFormat, "a format by azprov was cut off"},
	{signOurs | signDamaged | signReformat, diskFormat, "azprov's file system is damaged beyond mounting, and resourcedisk.reformat=damaged"},
	{signDamaged, diskRefuse, "its file system is damaged beyond mounting"},
	{signLabel, diskMount, "it holds one Linux file system with the label AzureEphmDsk"},
	{signTorn, diskRefuse, "its partition table is damaged or contradictory"},
	{signMany, diskRefuse, "it has more than one partition"},
	{signNamed | signLinux, diskMount, "resourcedisk names it, and it holds one ext2, ext3, ext4, xfs or btrfs"},
	{signNTFS | signFresh, diskFormat, "its one partition is Azure's NTFS, which holds at most the read-me and System Volume Information"},
	{signNTFS, diskRefuse, "it holds an NTFS that has files, another label, or can't be read for certain"},
	{signKnown, diskRefuse, "it holds another file system, or part of LVM, RAID, LUKS, BitLocker, swap or the like"},
	{signBlank | signTable, diskFormat, "its partition table is empty, and so is the disk"},
	{signBlank, diskFormat, "it is empty"},
	{0, diskRefuse, "it holds something unknown"},
}

// decideDisk is the decision about a disk, and why. With resourcedisk.fs=none
// what would be formatted is kept.
func decideDisk(seen diskSigns) (verdict, string) {
	for _, r := range diskRules {
		if seen&r.signs != r.signs {
			continue
		}
		if r.verdict == diskFormat && seen&signFormatOff != 0 {
			return diskKeep, r.why + ", but resourcedisk.fs=none"
		}
		return r.verdict, r.why
	}
	return diskRefuse, ""
}
