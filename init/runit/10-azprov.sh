# runit: what stage 1 sources before any service starts, for example as
# /etc/runit/core-services/10-azprov.sh. sshd is a service, and so comes later.
azprov_code=0
/usr/sbin/azprov || azprov_code=$?
# 3: not an Azure VM.
[ "$azprov_code" = 0 ] || [ "$azprov_code" = 3 ] || echo "azprov ended with $azprov_code"
unset azprov_code
