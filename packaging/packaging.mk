# What leaves the build folder: installation, Debian package, bundle, release tarball. The Makefile includes this file.
#
# All but the tarball start from one staged tree (packaging/stage.sh), so that they have the same files.
#
# Yours to set: DEB_MAINTAINER (who made the package)

DEB_MAINTAINER ?= ropebits maintainers <ropebits@localhost>

# stage PC_PREFIX, FOLDER
stage = packaging/stage.sh "$(BUILD)" "$(VERSION)" "$(CUDA_LIB)" '$(1)' "$(2)" $(PLAN_SONAME) $(KV_SONAME)

# ---- manual pages, from what the programs say of themselves ----------------------------------------------------------
MAN_PAGES := $(patsubst $(BUILD)/bin/%,$(BUILD)/man/%.1,$(PROGRAMS))
$(BUILD)/man/%.1: $(BUILD)/bin/% $(BUILD)/bin/ropebits packaging/make-man.sh
	@mkdir -p $(@D)
	@echo "  MAN  $@"
	$(Q)packaging/make-man.sh $< $(VERSION) >$@

.PHONY: man install uninstall deb bundle bundle-gpu dist

## man: manual pages of all programs under $(BUILD)/man; install, deb and bundle have them
man: $(MAN_PAGES)

# ---- installation ----------------------------------------------------------------------------------------------------
## install: programs, library, manual pages, completions, docs under $(DESTDIR)$(PREFIX); CUDA for all architectures
install: all $(MAN_PAGES)
	$(Q)$(call stage,$(PREFIX),$(BUILD)/stage)
	$(Q)packaging/install.sh "$(BUILD)/stage" "$(DESTDIR)$(PREFIX)"

## uninstall: remove what install put under $(DESTDIR)$(PREFIX), and nothing else
uninstall:
	$(Q)packaging/uninstall.sh "$(DESTDIR)$(PREFIX)"

## deb: a Debian package for this release of Debian or Ubuntu, installs under /usr
deb: all $(MAN_PAGES)
	$(Q)$(call stage,/usr,$(BUILD)/stage-deb)
	$(Q)packaging/deb.sh "$(BUILD)/stage-deb" "$(BUILD)" "$(VERSION)" "$(DEB_MAINTAINER)"

# ---- folders for hosts without root ----------------------------------------------------------------------------------
# The pkg-config file finds its own place: the folder may be moved.
BUNDLE_PC_PREFIX := $${pcfiledir}/../..

## bundle: a relocatable folder with every shared library, for hosts without them
bundle: all $(MAN_PAGES)
	$(Q)$(call stage,$(BUNDLE_PC_PREFIX),$(BUILD)/stage-bundle)
	$(Q)packaging/bundle.sh "$(BUILD)/stage-bundle" "$(BUILD)" "$(VERSION)"

## bundle-gpu: the same with the tests and benchmarks of the CUDA side, for a GPU host where nothing can be built
bundle-gpu: all $(MAN_PAGES) $(GPU_TEST_BINS) $(BENCH_BINS)
	$(Q)$(call stage,$(BUNDLE_PC_PREFIX),$(BUILD)/stage-bundle)
	$(Q)packaging/bundle.sh "$(BUILD)/stage-bundle" "$(BUILD)" "$(VERSION)" gpu

# ---- sources ---------------------------------------------------------------------------------------------------------
## dist: release tarball of the commit that is checked out; it builds without git
dist:
	$(Q)packaging/dist.sh "$(BUILD)" "$(VERSION)"
