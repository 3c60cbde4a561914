# Tollgate. `make help` lists the targets; README.md names the two that matter: `make run` and `make test`.
CC ?= gcc
BUILD ?= build
MODE ?= release
FOLDERS := base conf auth backends gateway
PACKAGES := libmicrohttpd libcurl jansson openssl yaml-0.1
WARNINGS := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion -Wcast-qual -Wcast-align -Wpointer-arith \
  -Wwrite-strings -Wstrict-prototypes -Wmissing-prototypes -Wold-style-definition -Wredundant-decls -Wformat=2 -Wswitch-enum \
  -Wundef -Wvla -Walloca -Wnull-dereference -Wdouble-promotion -Wframe-larger-than=16384
FLAGS_release := -O2 -g -D_FORTIFY_SOURCE=2
FLAGS_asan := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
FLAGS_tsan := -O1 -g -fsanitize=thread -fno-omit-frame-pointer
CFLAGS_ALL := -std=c11 -D_GNU_SOURCE -I. $(WARNINGS) $(FLAGS_$(MODE)) -fstack-protector-strong -fPIE -MMD -MP \
  $(shell pkg-config --cflags $(PACKAGES) 2>/dev/null) $(CFLAGS)
LIBS := $(shell pkg-config --libs $(PACKAGES) 2>/dev/null) -lpthread
OUT := $(BUILD)/$(MODE)
SOURCES := $(wildcard $(addsuffix /*.c,$(FOLDERS)))
LIBRARY_OBJECTS := $(patsubst %.c,$(OUT)/%.o,$(filter-out gateway/main.c,$(SOURCES)))
UNIT_TESTS := $(patsubst tests/unit/%.c,$(OUT)/unit/%,$(wildcard tests/unit/*/test_*.c))

.PHONY: all unit clean
all: $(BUILD)/tollgate
$(BUILD)/tollgate: $(OUT)/tollgate
	cp $< $@
$(OUT)/tollgate: $(OUT)/gateway/main.o $(OUT)/libtollgate.a
	$(CC) $(CFLAGS_ALL) -pie -o $@ $^ $(LIBS)
$(OUT)/libtollgate.a: $(LIBRARY_OBJECTS)
	rm -f $@ && ar rcs $@ $^
$(OUT)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -c -o $@ $<
$(OUT)/unit/%: tests/unit/%.c $(OUT)/libtollgate.a
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -pie -o $@ $< $(OUT)/libtollgate.a $(LIBS) -lcmocka
unit: $(UNIT_TESTS)
	@for test in $(UNIT_TESTS); do $$test || exit 1; done
clean:
	rm -rf $(BUILD)
-include $(LIBRARY_OBJECTS:.o=.d)
