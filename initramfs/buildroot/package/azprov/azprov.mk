################################################################################
#
# azprov
#
################################################################################

AZPROV_VERSION = 0.1.0
AZPROV_SITE = $(AZPROV_PKGDIR)
AZPROV_SITE_METHOD = local
AZPROV_LICENSE = Apache-2.0

define AZPROV_INSTALL_TARGET_CMDS
	$(INSTALL) -D -m 0755 $(call qstrip,$(BR2_PACKAGE_AZPROV_BINARY)) $(TARGET_DIR)/usr/sbin/azprov
endef

# S20: behind mdev or udev (S10), before sshd and dropbear (S50).
define AZPROV_INSTALL_INIT_SYSV
	$(INSTALL) -D -m 0755 $(AZPROV_PKGDIR)/S20azprov $(TARGET_DIR)/etc/init.d/S20azprov
endef

define AZPROV_INSTALL_INIT_SYSTEMD
	$(INSTALL) -D -m 0644 $(BR2_EXTERNAL_AZPROV_PATH)/../../init/systemd/azprov.service \
		$(TARGET_DIR)/usr/lib/systemd/system/azprov.service
endef

$(eval $(generic-package))
