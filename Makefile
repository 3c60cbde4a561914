# Tollgate. `make help` lists the targets; README.md names the two that matter: `make run` and `make test`.
CC := $(if $(filter default undefined,$(origin CC)),gcc,$(CC))
BUILD ?= build
MODE ?= release
WERROR ?=
PREFIX ?= /usr/local
FUZZ_SECONDS ?= 60
export FUZZ_SECONDS

FOLDERS := base conf auth ratelimit billing backends gateway
PACKAGES := libmicrohttpd libcurl jansson openssl yaml-0.1 hiredis
WARNINGS := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion -Wcast-qual -Wcast-align -Wpointer-arith \
  -Wwrite-strings -Wstrict-prototypes -Wmissing-prototypes -Wold-style-definition -Wredundant-decls -Wformat=2 -Wswitch-enum \
  -Wundef -Wvla -Walloca -Wnull-dereference -Wdouble-promotion -Wframe-larger-than=16384
HARDENING := -fstack-protector-strong -fstack-clash-protection
ifeq ($(shell uname -m),x86_64)
  HARDENING += -fcf-protection=full
endif
ifneq ($(findstring clang,$(shell $(CC) --version 2>/dev/null)),clang)
  WARNINGS += -Wlogical-op -Wduplicated-cond -Wduplicated-branches -Wformat-signedness -Wstringop-overflow=4
  HARDENING += -ftrivial-auto-var-init=zero
endif
FLAGS_release := -O2 -g -D_FORTIFY_SOURCE=3
FLAGS_asan := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
FLAGS_tsan := -O1 -g -fsanitize=thread -fno-omit-frame-pointer
FLAGS_fuzz := -O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer

CFLAGS_ALL := -std=c11 -D_GNU_SOURCE -I. $(WARNINGS) $(if $(WERROR),-Werror) $(FLAGS_$(MODE)) $(HARDENING) -fPIE -MMD -MP \
  $(shell pkg-config --cflags $(PACKAGES) 2>/dev/null) $(CFLAGS)
SAY = @$(if $(V),,echo '  $(1) $@';)
LINK = $(call SAY,LINK)$(if $(V),set -x;) $(CC) $(FLAGS_$(MODE)) -pie -Wl,-z,relro,-z,now -Wl,-z,noexecstack $(LDFLAGS) -o $@ $^
LIBS := $(shell pkg-config --libs $(PACKAGES) 2>/dev/null) -lpthread -lm

OUT := $(BUILD)/$(MODE)
SOURCES := $(wildcard $(addsuffix /*.c,$(FOLDERS)))
LIBRARY_OBJECTS := $(patsubst %.c,$(OUT)/%.o,$(filter-out gateway/main.c,$(SOURCES)))
HELPER_OBJECTS := $(patsubst %.c,$(OUT)/%.o,$(wildcard tests/lib/*.c))
UNIT_TESTS := $(patsubst tests/unit/%.c,$(OUT)/unit/%,$(wildcard tests/unit/*/test_*.c))
SCRIPTED_OBJECTS := $(patsubst %.c,$(OUT)/%.o,$(wildcard tests/tools/scripted_*.c))
TOOLS := $(OUT)/tools/scripted_engine $(OUT)/tools/tollgate_test_clock $(OUT)/tools/slow_disk.so $(OUT)/tools/tollgate_ledger
FUZZERS := $(patsubst tests/fuzz/%.c,$(OUT)/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))

.PHONY: all run install test lint unit e2e ledger ledger-mutations asan tsan fuzz fuzz-replay estimate-report journal-bench ship-bench format format-check docs tools units fuzzers everything clean help FORCE
all: $(BUILD)/tollgate

help:
	@echo 'make            build build/tollgate (MODE=release|asan|tsan: into build/<mode>/, WERROR=1: warnings are errors)'
	@echo 'make run        fetch the demo engine and model, start the gateway in front of it, print how to call it'
	@echo 'make install    the binary and its completions below PREFIX (/usr/local), systemd units; DESTDIR for packagers'
	@echo 'make test       install what the tests need and run every suite; the last line counts them'
	@echo 'make lint       formatting, layering, sizes, options, generated docs, both compilers without a warning'
	@echo 'make unit       unit tests (MODE=asan, MODE=tsan: with that sanitizer)'
	@echo 'make e2e        tests that start the real binary (MODE=asan too)'
	@echo 'make ledger     SEEDS=n: whether all counts of usage agree, whatever dies (SEED=s: that one, and what it leaves is kept)'
	@echo 'make ledger-mutations  breaks one rule of usage after the other in copies: which seed notices'
	@echo 'make asan, tsan unit and e2e under ASan and UBSan; what has threads under TSan'
	@echo 'make fuzz       every parser for FUZZ_SECONDS (60) each'
	@echo 'make estimate-report  what the token estimates would have reserved for recorded loads'
	@echo 'make journal-bench  what a request costs in the usage journal; JOURNAL_MEGABYTES=1024: and recovering so much'
	@echo 'make ship-bench     how fast usage gets into Redis, and what recovering 64 MB of journal takes; or JOURNAL_MEGABYTES'
	@echo 'make format     let clang-format write; make format-check: only look'
	@echo 'make docs       docs/configuration.md from the schema table'
	@echo 'make clean      remove build/ (what was downloaded for the demo and the tests is in it)'

$(BUILD)/tollgate: $(OUT)/tollgate
	@cp $< $@.new && mv $@.new $@
$(OUT)/tollgate: $(OUT)/gateway/main.o $(OUT)/libtollgate.a
	$(LINK) $(LIBS)
$(OUT)/libtollgate.a: $(LIBRARY_OBJECTS)
	@rm -f $@ && ar rcs $@ $^
# Objects are built anew when the compiler or its flags change, not only when a source does.
$(OUT)/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(CC) $(CFLAGS_ALL)' | cmp -s - $@ || echo '$(CC) $(CFLAGS_ALL)' >$@
$(OUT)/%.o: %.c $(OUT)/flags
	@mkdir -p $(@D)
	$(call SAY,CC)$(if $(V),set -x;) $(CC) $(CFLAGS_ALL) -c -o $@ $<
# The assembler puts the script into the object; the tests include the source.
$(OUT)/billing/ship.o $(OUT)/tests/unit/billing/test_shipper.o: billing/ship.lua billing/forget.lua
$(OUT)/billing/restore.o $(OUT)/tests/unit/billing/test_restore.o: billing/restore.lua
$(OUT)/unit/%: $(OUT)/tests/unit/%.o $(HELPER_OBJECTS) $(OUT)/libtollgate.a
	@mkdir -p $(@D)
	$(LINK) $(LIBS) -lcmocka
$(OUT)/tools/scripted_engine: $(SCRIPTED_OBJECTS) $(OUT)/libtollgate.a
	@mkdir -p $(@D)
	$(LINK) $(LIBS)
# The gateway of the ledger test: journals with small segments (--wrap), a clock that can be moved, and a disk that can be
# made slow.
$(OUT)/tools/tollgate_ledger: $(OUT)/gateway/main.o $(OUT)/test_clock/clock.o $(OUT)/tests/tools/small_segments.o $(OUT)/libtollgate.a
	@mkdir -p $(@D)
	$(LINK) -Wl,--wrap=journal_create $(LIBS)
$(OUT)/tools/slow_disk.so: tests/tools/slow_disk.c $(OUT)/flags
	@mkdir -p $(@D)
	$(call SAY,CC)$(CC) $(filter-out -fPIE -Wpedantic -pie,$(CFLAGS_ALL)) -fPIC -shared -o $@ $<
# The gateway with a wall clock that a test can step; never installed. Its clock is linked first, so the library's is not.
$(OUT)/tools/tollgate_test_clock: $(OUT)/gateway/main.o $(OUT)/test_clock/clock.o $(OUT)/libtollgate.a
	@mkdir -p $(@D)
	$(LINK) $(LIBS)
$(OUT)/test_clock/clock.o: base/clock.c $(OUT)/flags
	@mkdir -p $(@D)
	$(call SAY,CC)$(if $(V),set -x;) $(CC) $(CFLAGS_ALL) -DTOLLGATE_TEST_CLOCK -c -o $@ $<
$(OUT)/bench/%: $(OUT)/bench/%.o $(OUT)/libtollgate.a
	@mkdir -p $(@D)
	$(LINK) $(LIBS)
$(OUT)/fuzz/%: $(OUT)/tests/fuzz/%.o $(OUT)/libtollgate.a
	@mkdir -p $(@D)
	$(LINK) $(LIBS) -fsanitize=fuzzer

units: $(UNIT_TESTS)
tools: $(TOOLS)
fuzzers: $(FUZZERS)
everything: $(OUT)/tollgate units tools $(patsubst %.c,$(OUT)/%,$(wildcard bench/*.c))

run:
	@scripts/run.sh
install: $(BUILD)/tollgate
	install -D -m 0755 $< $(DESTDIR)$(PREFIX)/bin/tollgate
	install -D -m 0644 deploy/completions/tollgate.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/tollgate
	@for unit in $(notdir $(wildcard deploy/*.service deploy/*.timer)); do \
	    sed 's|/usr/local/bin|$(PREFIX)/bin|g' "deploy/$$unit" | \
	        install -D -m 0644 /dev/stdin "$(DESTDIR)/etc/systemd/system/$$unit" || exit 1; \
	done
test:
	@scripts/test.sh
lint:
	@scripts/lint.sh
unit: units
	@scripts/unit.sh $(MODE) $(UNIT_TESTS)
e2e: $(OUT)/tollgate tools
	@scripts/e2e.sh $(MODE)
ledger: $(addprefix $(OUT)/tools/,tollgate_ledger slow_disk.so scripted_engine)
	@SEED=$(SEED) SEEDS=$(SEEDS) scripts/ledger.sh $(BUILD)
ledger-mutations: ledger
	@build/venv-tests/bin/python -B tests/ledger/mutations.py --build $(BUILD) --directory $(BUILD)/mutants
asan:
	@$(MAKE) MODE=asan unit e2e
tsan:
	@scripts/tsan.sh
fuzz:
	@$(MAKE) MODE=fuzz CC=clang fuzzers
	@scripts/fuzz.sh search
fuzz-replay:
	@$(MAKE) MODE=fuzz CC=clang fuzzers
	@scripts/fuzz.sh replay
estimate-report: $(OUT)/bench/estimate_report
	@$< tests/vectors/traces/conv.csv tests/vectors/traces/code.csv
journal-bench: $(OUT)/bench/journal_bench
	@$< $(BUILD) $(JOURNAL_MEGABYTES)
ship-bench: $(OUT)/bench/ship_bench
	@$< $(BUILD) $${REDIS_SERVER:-build/tools/redis-server} $(JOURNAL_MEGABYTES)
format:
	@tests/check/format.sh --write
format-check:
	@tests/check/format.sh
docs: all
	$(BUILD)/tollgate schema --markdown >$(BUILD)/configuration.md && cp $(BUILD)/configuration.md docs/configuration.md
clean:
	rm -rf $(BUILD)

.SECONDARY:
-include $(shell find $(OUT) -name '*.d' 2>/dev/null)
