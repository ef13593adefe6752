SUMMARY = "Provisions an Azure VM without an agent"
LICENSE = "Apache-2.0"
LIC_FILES_CHKSUM = "file://${COMMON_LICENSE_DIR}/Apache-2.0;md5=89aea4e17d99a7cacdbeed46a0096b10"

# The static binary that "make" makes in azprov's repository, and its unit.
AZPROV_REPOSITORY ?= "${THISDIR}/../../../../.."
FILESEXTRAPATHS:prepend := "${AZPROV_REPOSITORY}:${AZPROV_REPOSITORY}/init/systemd:"
SRC_URI = "file://azprov file://azprov.service"
S = "${WORKDIR}"

inherit systemd
SYSTEMD_SERVICE:${PN} = "azprov.service"

do_install() {
    install -D -m 0755 ${S}/azprov ${D}${sbindir}/azprov
    install -D -m 0644 ${S}/azprov.service ${D}${systemd_system_unitdir}/azprov.service
}

# It is linked statically and has no symbols.
INSANE_SKIP:${PN} += "already-stripped"
INHIBIT_PACKAGE_STRIP = "1"
