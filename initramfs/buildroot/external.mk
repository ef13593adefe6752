include $(sort $(wildcard $(BR2_EXTERNAL_AZPROV_PATH)/package/*/*.mk))
