#!/bin/sh
# Provisions the root file system before dracut switches to it. A failure is on
# the console and, if it can be told, at Azure. The boot goes on.

azprov_root="${NEWROOT:-/sysroot}"
azprov_options=rw
while read -r _ where _ options _; do
    if [ "$where" = "$azprov_root" ]; then
        azprov_options="$options"
    fi
done < /proc/mounts
mount -o remount,rw "$azprov_root"
# Custom data that is a script is left to azprov in the real root.
azprov -root "$azprov_root" -skip script || echo "azprov ended with $?"
case ",$azprov_options," in
    *,ro,*) mount -o remount,ro "$azprov_root" ;;
esac
unset azprov_root azprov_options
