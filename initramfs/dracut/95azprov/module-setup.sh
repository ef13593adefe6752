#!/bin/bash
# dracut module: /usr/lib/dracut/modules.d/95azprov. Works with and without
# systemd in the initramfs: the pre-pivot hook runs in both.

check() {
    require_binaries azprov || return 1
    return 0
}

depends() {
    echo base rootfs-block
}

installkernel() {
    # What a kernel has built in, or has not, is no error.
    hostonly='' instmods hv_vmbus hv_netvsc hv_storvsc hv_utils sr_mod cdrom sd_mod ata_piix nvme pci_hyperv \
        mana mlx5_core mlx4_en virtio_pci virtio_net virtio_scsi virtio_blk
}

install() {
    inst_multiple azprov mount
    inst_simple /etc/azprov.conf
    # Without network or DVD, drivers may still be on their way: udev loads them.
    inst_hook pre-pivot 50 "$moddir/azprov.sh"
}
