# What a developer and an operator type. Every target works on a fresh Debian
# 12 with a Rust toolchain and no other step.
#
#   make check       fmt, clippy, unit tests, scenarios, 500 simulator seeds; no root (but for the first apt)
#   make test        everything: check, guards taken away, the real lab, the real OpenStack, the packages; root
#   make demo        three hypervisors on this machine, one dies; root.  KEEP=1 leaves them running
#   make demo-down   removes all that the demo made, also after a crash
#   make bench       figures, with the machine's load beside them; root
#   make soak        the long ones: many seeds, cases at their real times; root
#   make lab-openstack  the main cases on a real Keystone, Placement, Glance and Nova on this machine; root
#   make test-openstack-new  what medevac takes for granted of Nova, on the newest one by pip; root.  NOVA=VERSION
#   make bench-openstack  figures on that Nova, beside a bare client; root.  COUNTS=1,10,50: servers on the host that dies
#   make packages    target/packages: three programs, each as .deb and .rpm, checked
#   make test-packages  the packages on a Debian with systemd: installed, upgraded, interrupted, removed; root
#   make dist        target/dist: the source with all that is compiled in, to be built offline
#   make deny        licences, duplicates and sources of the dependencies

CARGO ?= cargo
PROGRAMS = -p medevac-agent -p medevac-aggregator -p medevac-ctl
SEEDS_SOAK ?= 20000
COUNTS ?= 1,10
NOVA ?= 34.0.0

.PHONY: check lint unit test guards lab lab-programs lab-without-proof lab-openstack test-openstack-new contract-test demo demo-programs demo-down bench bench-openstack soak deny packages test-packages dist test-dist build-packages

build-packages:
	@tests/need packaging/apt-build.txt

lint: build-packages
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

unit: build-packages
	$(CARGO) test --workspace --locked

check: lint unit

# Each guard taken away in turn: the simulator must notice.
guards: build-packages
	$(CARGO) test --locked --workspace --features medevac-tests/removable-guards --test guards

# The aggregator with crash points and removable guards, for the lab alone.
# Always the whole workspace: another choice of packages would mean other features
# of the dependencies, and all of them built once more.
lab-programs: build-packages
	$(CARGO) build --locked --workspace --bins --features medevac-aggregator/crash-points,medevac-aggregator/removable-guards
	mkdir -p target/lab
	cp target/debug/medevac-agent target/debug/medevac-aggregator target/debug/medevacctl target/lab/

lab: lab-programs
	MEDEVAC_BIN=target/lab tests/lab/run.py

# The same suite against a build without the proof check must fail.
lab-without-proof: lab-programs
	MEDEVAC_BIN=target/lab MEDEVAC_LAB_AGGREGATOR_ARGS="--without-guards proof" tests/lab/run.py --expect-failure -k without_a_proof

# What Nova has to keep, as a program that a case runs; cargo chooses its name.
contract-test: build-packages
	mkdir -p target/lab
	cp "$$($(CARGO) test --locked --workspace --test contract --no-run --message-format=json | sed -n 's/.*"executable":"\([^"]*\/contract-[^"]*\)".*/\1/p')" target/lab/contract

# A real OpenStack beside the lab; `make soak` runs all of its cases.
lab-openstack: lab-programs contract-test
	MEDEVAC_BIN=target/lab tests/openstack/run.py

# The same cloud with a Nova that Debian does not have yet.
test-openstack-new: contract-test
	MEDEVAC_BIN=target/lab MEDEVAC_NOVA=$(NOVA) tests/openstack/run.py -k contract

test: check guards lab-without-proof lab lab-openstack test-packages

packages: build-packages
	@tests/need packaging/apt-packages.txt
	packaging/build.py

test-packages: packages
	tests/packages/run.py

dist:
	packaging/dist.sh

# The source as it is published, built without a network and without this machine's crates.
test-dist: dist build-packages
	packaging/dist.sh --build

demo-programs:
	@$(CARGO) build --locked $(PROGRAMS)

demo:
	@tests/lab/demo.py --announce
	@tests/need packaging/apt-build.txt
	@$(MAKE) --no-print-directory demo-programs
	@tests/lab/demo.py --run

demo-down:
	@tests/lab/lab.py down --purge

bench: build-packages
	$(CARGO) build --locked --release $(PROGRAMS)
	MEDEVAC_BIN=target/release tests/lab/bench.py

# The examples each by themselves, so that nothing of theirs gets into the programs.
bench-openstack: build-packages
	$(CARGO) build --locked --release $(PROGRAMS)
	$(CARGO) build --locked --release -p medevac-openstack --example fake_cloud
	$(CARGO) build --locked --release -p medevac-aggregator --example pace
	MEDEVAC_BIN=target/release tests/openstack/bench.py --counts $(COUNTS)

soak: lab-programs contract-test test-dist
	SEEDS=$(SEEDS_SOAK) $(CARGO) test --locked -p medevac-tests --test simulator -- --nocapture
	MEDEVAC_BIN=target/lab tests/lab/run.py --soak
	MEDEVAC_BIN=target/lab tests/openstack/run.py --soak

deny:
	$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-deny
	$(CARGO) deny --all-features check bans licenses sources
