# What the tests are worth, and what tools find without running anything. The Makefile includes this file;
# docs/testing.md tells what each target is for, and the figures of the last run.
#
# Yours to set: COVERAGE_TESTS (names of tests, as coverage.sh takes them), MUTANTS (names of planted faults),
# LINT (names of lint.sh's parts)

.PHONY: coverage coverage-build lint check-valgrind mutants check-faults

# -O1 and single: a counter for every line that stays out of inner loops. Threads may lose counts, never the first one.
# gcc guesses wrong about unset variables at -O1.
COVERAGE := BUILD=$(BUILD)/coverage CUDA=0 \
            CFLAGS="-O1 -g --coverage -fprofile-update=single -Wno-maybe-uninitialized -DRB_NO_CLONES"

# What tests/programs/faults.sh preloads.
FAULTS := $(BUILD)/tests/libfaults.so
$(FAULTS): tests/faults/faults.c
	@mkdir -p $(@D)
	@echo "  LD   $@"
	$(Q)$(CC) -std=c11 -D_GNU_SOURCE -O2 -g -Wall -Wextra -Werror -fPIC -shared -o $@ $< -ldl
test-programs: $(FAULTS)

## coverage: lines that the tests run, room by room, and a page for each file under $(BUILD)/coverage/html
coverage: packages
	$(Q)tests/quality/need.sh lcov
	$(Q)$(MAKE) --no-print-directory $(PARALLEL) test-programs $(COVERAGE)
	$(Q)tests/quality/coverage.sh $(BUILD)/coverage $(COVERAGE_TESTS)

## lint: cppcheck, clang-tidy, gcc's analyzer and shellcheck; any finding fails it
lint: packages
	$(Q)tests/quality/need.sh cppcheck clang-tidy shellcheck
	$(Q)BUILD=$(BUILD) tests/quality/lint.sh $(LINT)

## check-valgrind: the programs of the demo under valgrind, on a small model
check-valgrind: packages
	$(Q)tests/quality/need.sh valgrind
	$(Q)$(MAKE) --no-print-directory $(PARALLEL) programs
	$(Q)RB_BUILD=$(BUILD) RB_SANITIZED=0 bash tests/quality/valgrind.sh

## mutants: plants faults in a copy of the sources, one at a time, and counts what the tests notice
mutants: packages
	$(Q)tests/mutants/plant.sh $(BUILD)/mutants $(MUTANTS)

## check-faults: every fault that tests/programs/faults.sh can inject, in place of a sample
check-faults: packages
	$(Q)$(MAKE) --no-print-directory $(PARALLEL) test-programs
	$(Q)RB_BUILD=$(BUILD) RB_SANITIZED=0 RB_FAULTS=all bash tests/programs/faults.sh
