# azprov: make, make demo, make test, make vm, make initramfs, make size, make bench,
# make fuzz, make netem, make debug, make clean.

GO          ?= go
PATH        := $(PATH):/usr/local/go/bin:/usr/sbin:/sbin
# Without inlining the code is smaller by a seventh after compression, without
# padding between functions by 80 kB, without checks of range functions' misuse and
# without a second way to make slices, on the stack, by 16 kB.
FLAGS        = -trimpath -buildvcs=false -gcflags='all=-l -d=rangefunccheck=0,variablemakethreshold=0' -ldflags='-s -w -buildid= -funcalign=$(ALIGN)'
ALIGN       := 1
# The garbage collector of Go 1.25 and before takes 45 kB less, where it can be had.
SMALL       := $(shell GOEXPERIMENT=nogreenteagc $(GO) version >/dev/null 2>&1 && echo GOEXPERIMENT=nogreenteagc)
SOURCES     := $(filter-out %_test.go,$(wildcard *.go)) go.mod go.sum
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

# The largest binary that may ship, in bytes; gzip -9 and xz -9e of it.
MAX_SIZE := 3000000
MAX_GZIP := 1250000
MAX_XZ   := 1050000

FUZZTIME ?= 2s

export PATH
export CGO_ENABLED = 0

all: azprov

azprov: $(SOURCES) build/slim | go
	$(SMALL) $(GO) build $(FLAGS) -o $@ .
	build/slim $@

azprov-arm64: ALIGN := 4
azprov-arm64: $(SOURCES) build/slim | go
	$(SMALL) GOARCH=arm64 $(GO) build $(FLAGS) -o $@ .
	build/slim $@

# The same code with symbols and lines, to look up the addresses of a traceback:
# go tool addr2line build/azprov.debug
debug: | go
	$(SMALL) $(GO) build $(subst -s -w ,,$(FLAGS)) -o build/azprov.debug .

build/slim: $(wildcard cmd/slim/*.go) | go
	$(GO) build -trimpath -buildvcs=false -o $@ ./cmd/slim

azuresim: $(SOURCES) $(wildcard sim/*.go cmd/azuresim/*.go) | go
	$(GO) build -trimpath -buildvcs=false -o $@ ./cmd/azuresim

# All programs as they ship, into DIR: for the tests.
programs: build/slim | go
	$(SMALL) $(GO) build $(FLAGS) -o $(DIR)/azprov .
	build/slim $(DIR)/azprov
	$(GO) build -trimpath -buildvcs=false -o $(DIR)/azuresim ./cmd/azuresim
	$(GO) build -trimpath -buildvcs=false -o $(DIR)/mkinitramfs ./initramfs/mkinitramfs

go:
	@scripts/setup build

demo: azprov azuresim
	@scripts/setup demo
	@scripts/demo

test: check
	@scripts/setup test
	$(GO) test -timeout 60m ./...
	scripts/fuzz $(FUZZTIME)

check: | go
	@test -z "$$(gofmt -l .)" || { echo "gofmt wants to change:"; gofmt -l .; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

size: azprov azprov-arm64
	@scripts/size $(MAX_SIZE) $(MAX_GZIP) $(MAX_XZ) azprov azprov-arm64

bench: azprov azuresim build/mkinitramfs
	@scripts/setup vm
	@scripts/cloudkernel >/dev/null
	$(GO) build -trimpath -buildvcs=false -o build/bare ./bench/bare
	$(GO) build -trimpath -buildvcs=false -o build/bareinit ./bench/bareinit
	$(GO) run ./bench

build/mkinitramfs: $(wildcard initramfs/mkinitramfs/*.go) | go
	$(GO) build -trimpath -buildvcs=false -o $@ ./initramfs/mkinitramfs

# An initramfs for a kernel: make initramfs MODULES=/lib/modules/RELEASE, with
# KERNEL=FILE for the modules of that kernel, or neither for one with all built in.
RELEASE    = $(patsubst vmlinuz-%,%,$(notdir $(KERNEL)))
MODULES   ?= $(if $(KERNEL),$(firstword $(wildcard $(patsubst %/boot/,%,$(dir $(KERNEL)))/lib/modules/$(RELEASE)) /lib/modules/$(RELEASE)))
COMPRESS  ?= gzip
INITRAMFS ?= build/initrd.img

initramfs: azprov build/mkinitramfs
	build/mkinitramfs -azprov azprov $(if $(MODULES),-modules $(MODULES)) -compress $(COMPRESS) -o $(INITRAMFS)
	@ls -l $(INITRAMFS)

vm: azprov azuresim build/mkinitramfs
	@scripts/setup vm
	@scripts/vm

fuzz: | go
	scripts/fuzz 5m

# Fifty VMs on a network that loses, delays, doubles and reorders frames.
netem: | go
	@AZPROV_IMPAIRED=50 $(GO) test -count=1 -parallel 6 -timeout 30m -v -run '^TestImpairedNetwork$$' . | grep -e '^ *---' -e '^ok' -e FAIL -e Ready

clean:
	rm -rf azprov azprov-arm64 azuresim build demo

.PHONY: all debug programs go demo test check size bench initramfs vm fuzz netem clean
