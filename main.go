// Command azprov provisions an Azure Linux VM without an agent.
package main

import (
	_ "github.com/mdlayher/netlink"
	_ "github.com/u-root/u-root/pkg/mount"
)

func main() {}
