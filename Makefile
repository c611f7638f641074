# SPDX-License-Identifier: Apache-2.0
# Makefile: build, install, show and test mod_pubsubpull. `make help` lists the targets.

APXS       ?= $(firstword $(wildcard /usr/bin/apxs /usr/sbin/apxs) apxs)
PKG_CONFIG ?= pkg-config
PYTHON     ?= /usr/bin/python3
DESTDIR    ?=
prefix     ?= /usr
sysconfdir ?= /etc
datadir    ?= $(prefix)/share
# Empty, or 1: compiler warnings are errors.
WERROR     ?=
# Where objects and the module go; `make asan` uses another place.
BUILD      ?= build
# Which tests `make test` runs, how many at a time, and more arguments for prove.
TESTS      ?= t/*.t t/fault/*.t
JOBS       ?= 2
ARGS       ?=

# Debian packages, by what needs them. apache2-bin is httpd without a service that starts by itself.
PACKAGES_BUILD = gcc libc6-dev apache2-dev libpq-dev libcurl4-openssl-dev libssl-dev pkg-config
PACKAGES_RUN   = apache2-bin postgresql-15 perl libdbd-pg-perl util-linux procps \
                 python3 python3-django python3-psycopg2 python3-gunicorn curl
# Fuzz targets are clang's.
PACKAGES_FUZZ  = clang libclang-rt-dev
# The services that stand for their kinds in t/adapter_*.t. Node.js may come from elsewhere.
PACKAGES_TEST  = $(PACKAGES_RUN) libfaketime openssl nginx-light php-fpm php-pgsql python3-flask python3-sqlalchemy python3-fastapi \
                 python3-uvicorn python3-asyncpg puma ruby-connection-pool ruby-pg ruby-rack pgbouncer uwsgi-core \
                 uwsgi-plugin-python3 libapache2-mod-wsgi-py3 libaprutil1-dbd-pgsql davical php-xml chromium jq $(PACKAGES_FUZZ) \
                 $(if $(shell command -v node && command -v npm),,nodejs npm)
PACKAGES_BENCH = $(PACKAGES_TEST) postgresql-15-pgq3 wrk
PACKAGES_LINT  = clang-format clang-tidy cppcheck
PACKAGES_ASAN  = libasan8 libubsan1
# libfaketime and AddressSanitizer wait for each other when a program starts.
WITHOUT_ASAN   = t/fault/clock.t
PACKAGES_TSAN  = libtsan2
PACKAGES_VALGRIND = valgrind libc6-dbg
# Where httpd's threads meet in hooks of ours, and where the notifier does most of what it does.
TSAN_TESTS     = t/web.t t/pull.t t/wait.t t/follow.t t/stream.t t/record.t t/complete.t t/metrics.t t/adapter_lua.t
VALGRIND_TESTS = t/deliver.t t/order.t t/retry.t t/subscribe.t t/record.t t/fuzz_receiver.t
FUZZ = BUILD=build/fuzz CC=clang CFLAGS='-g -O1 -Wno-missing-field-initializers' \
    SANITIZE='-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all'
BUILD_FUZZ = $(if $(filter t/fuzz.t,$(wildcard $(TESTS))),$(MAKE) --no-print-directory -s build-fuzz)
COVERAGE = BUILD=build/coverage SANITIZE='--coverage -fprofile-update=atomic' \
    LDFLAGS='-Wl,--wrap=_exit build/coverage/t/coverage/exit.o'
NODE_MODULES = build/interop/installed build/node/installed
INSTALL_PACKAGES = sh t/lib/install-packages

MODULE  = $(BUILD)/mod_pubsubpull.so
SOURCES = mod_pubsubpull.c $(wildcard src/*/*.c)
HEADERS = $(wildcard src/*/*.h)
OBJECTS = $(SOURCES:%.c=$(BUILD)/%.o)
FUZZERS = $(patsubst %.c,$(BUILD)/%,$(wildcard t/fuzz/fuzz_*.c))
UNITS   = $(patsubst %.c,$(BUILD)/%,$(wildcard t/unit/test_*.c))

# What httpd and the libraries want, asked when something is compiled and not for `make help` or `make deps`.
COMPILES := $(filter-out help deps deps-% clean demo test soak fuzz build-fuzz bench lint asan tsan valgrind coverage coverage-report,$(or $(MAKECMDGOALS),all))
ifneq ($(COMPILES),)
ifeq ($(shell command -v $(APXS)),)
$(error $(APXS) is missing: `make deps` installs what the build needs)
endif
ask = $(shell $(APXS) -q $(1) 2>/dev/null)
HTTPD_CFLAGS := $(call ask,EXTRA_CPPFLAGS) $(call ask,CFLAGS) -isystem $(call ask,INCLUDEDIR)
LIB_CFLAGS := $(patsubst -I%,-isystem %, \
                $(shell $(PKG_CONFIG) --cflags apr-1 apr-util-1 libpq libcurl libcrypto))
LIBS       := $(shell $(PKG_CONFIG) --libs libpq libcurl libcrypto)
APR_LIBS   := $(shell $(PKG_CONFIG) --libs apr-1 apr-util-1)
LIBEXECDIR := $(call ask,LIBEXECDIR)
endif

WARNINGS = -Wall -Wextra -Wshadow $(if $(WERROR),-Werror)
ALL_CFLAGS = -std=c11 $(WARNINGS) $(HTTPD_CFLAGS) $(LIB_CFLAGS) -Isrc -fPIC $(SANITIZE) $(CFLAGS)

.DEFAULT_GOAL := all
.PHONY: all install deps deps-build deps-run deps-test deps-bench deps-lint demo test soak unit fuzz fuzzers \
        build-fuzz bench \
        asan tsan valgrind coverage coverage-report lint lint-format lint-cppcheck lint-tidy lint-scripts format help clean FORCE
.SUFFIXES:
.DELETE_ON_ERROR:

all: $(MODULE) ## build build/mod_pubsubpull.so (WERROR=1: warnings are errors)

# Only the module record is visible outside: names of ours never meet those of other modules. A running httpd
# keeps the file that it has loaded.
$(MODULE): $(OBJECTS) $(BUILD)/exports.map
	$(CC) -shared $(SANITIZE) $(LDFLAGS) -Wl,--as-needed -Wl,--version-script=$(BUILD)/exports.map \
	    -o $@.new $(OBJECTS) $(LIBS)
	@mv -f $@.new $@

$(BUILD)/exports.map: | $(BUILD)/flags
	@echo '{ global: pubsubpull_module; local: *; };' > $@

$(BUILD)/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

# Other flags than last time: everything is built again.
$(BUILD)/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(CC) $(ALL_CFLAGS) $(LDFLAGS)' | cmp -s - $@ || echo '$(CC) $(ALL_CFLAGS) $(LDFLAGS)' > $@

# Unit tests take from the archive what they use, so that tests of core need neither httpd nor libpq.
$(BUILD)/all.a: $(OBJECTS)
	@rm -f $@ && $(AR) rcs $@ $(OBJECTS)

$(BUILD)/t/unit/test_%: $(BUILD)/t/unit/test_%.o $(BUILD)/all.a
	$(CC) $(SANITIZE) $(LDFLAGS) -o $@ $< $(BUILD)/all.a -Wl,--as-needed $(LIBS) $(APR_LIBS)

unit: $(UNITS)

# Each with AddressSanitizer and UndefinedBehaviorSanitizer, and libFuzzer that looks where the input gets to.
$(BUILD)/t/fuzz/fuzz_%: $(BUILD)/t/fuzz/fuzz_%.o $(BUILD)/all.a
	$(CC) $(SANITIZE) -fsanitize=fuzzer $(LDFLAGS) -o $@ $< $(BUILD)/all.a -Wl,--as-needed $(LIBS) $(APR_LIBS)

fuzzers: $(FUZZERS)

build-fuzz:
	@$(MAKE) --no-print-directory -s fuzzers $(FUZZ)

# Libraries of others, of the versions and with the checksums of the lock files, fetched once.
build/interop/installed: from = t/interop
build/node/installed: from = t/services/node
build/interop/installed: t/interop/package.json t/interop/package-lock.json
build/node/installed: t/services/node/package.json t/services/node/package-lock.json
$(NODE_MODULES):
	@mkdir -p $(@D) && cp $(from)/package.json $(from)/package-lock.json $(@D)/
	@cd $(@D) && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >npm.log 2>&1 || \
	    { cat npm.log >&2; exit 1; }
	@touch $@

-include $(OBJECTS:.o=.d) $(UNITS:=.d)

install: all ## install the module, its configuration and the SQL (DESTDIR=)
	install -d "$(DESTDIR)$(LIBEXECDIR)" "$(DESTDIR)$(sysconfdir)/apache2/mods-available" \
	    "$(DESTDIR)$(datadir)/mod_pubsubpull/sql"
	install -m 0644 $(MODULE) "$(DESTDIR)$(LIBEXECDIR)/"
	install -m 0644 conf/pubsubpull.load conf/pubsubpull.conf \
	    "$(DESTDIR)$(sysconfdir)/apache2/mods-available/"
	install -m 0644 sql/*.sql "$(DESTDIR)$(datadir)/mod_pubsubpull/sql/"
	find conf/backends -type f ! -name '*.pyc' | sed 's|^conf/||' | while read -r file; do \
	    install -D -m 0644 "conf/$$file" "$(DESTDIR)$(datadir)/mod_pubsubpull/$$file" || exit 1; done

deps: deps-build deps-test ## install the Debian packages that are missing to build, show and test
deps-build:
	@$(INSTALL_PACKAGES) $(PACKAGES_BUILD)
deps-run:
	@$(INSTALL_PACKAGES) $(PACKAGES_BUILD) $(PACKAGES_RUN)
deps-test:
	@$(INSTALL_PACKAGES) $(PACKAGES_BUILD) $(PACKAGES_TEST)
deps-bench:
	@$(INSTALL_PACKAGES) $(PACKAGES_BUILD) $(PACKAGES_BENCH)
deps-lint:
	@$(INSTALL_PACKAGES) $(PACKAGES_BUILD) $(PACKAGES_LINT)

demo: deps-run ## the whole path on real parts under ./run/ (DEMO=once: ends by itself)
	@$(MAKE) --no-print-directory -s all
	@DEMO='$(DEMO)' perl -It/lib t/demo/demo

test: deps-test ## all tests (TESTS='t/one.t', ARGS=-v, JOBS=1)
	@$(MAKE) --no-print-directory -s all unit $(NODE_MODULES) WERROR=1
	@$(BUILD_FUZZ)
	@PSP_BUILT=1 prove -It/lib -j$(JOBS) $(ARGS) $(TESTS)

fuzz: deps-test ## all fuzz tests for FUZZ_SECONDS=300 each (FUZZ_SEED=n: the same again)
	@$(MAKE) --no-print-directory -s all WERROR=1
	@$(MAKE) --no-print-directory -s build-fuzz
	@FUZZ_SECONDS=$${FUZZ_SECONDS:-300} PSP_BUILT=1 prove -v -It/lib t/fuzz*.t

soak: deps-test ## load and random faults for SOAK_SECONDS=1200, then the books (SOAK_SEED=n: the same again)
	@$(MAKE) --no-print-directory -s all WERROR=1
	@SOAK_SECONDS=$${SOAK_SECONDS:-1200} PSP_BUILT=1 prove -v -It/lib t/soak.t

bench: deps-bench ## measure, and print the table of speed
	@$(MAKE) --no-print-directory -s all
	@t/bench/run $(ARGS)

asan: deps-test ## all tests with AddressSanitizer and UndefinedBehaviorSanitizer
	@$(INSTALL_PACKAGES) $(PACKAGES_ASAN)
	@$(MAKE) --no-print-directory -s all unit $(NODE_MODULES) WERROR=1 BUILD=build/asan \
	    SANITIZE='-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer'
	@$(BUILD_FUZZ)
	@PSP_BUILT=1 PSP_BUILD=build/asan PSP_SLOW=4 PSP_PRELOAD="$$($(CC) -print-file-name=libasan.so)" \
	    prove -It/lib $(ARGS) $(filter-out $(WITHOUT_ASAN),$(wildcard $(TESTS)))

# Only the module is built for ThreadSanitizer: what it reports is ours. What httpd does on a signal is left out (prefork
# ends its children in a handler), and what goes on after a fork. setarch: it wants its memory where it always is.
tsan: deps-test ## tests of what threads do (TSAN_TESTS), with ThreadSanitizer
	@$(INSTALL_PACKAGES) $(PACKAGES_TSAN)
	@$(MAKE) --no-print-directory -s all unit $(NODE_MODULES) WERROR=1 BUILD=build/tsan \
	    SANITIZE='-fsanitize=thread -fno-omit-frame-pointer'
	@PSP_BUILT=1 PSP_BUILD=build/tsan PSP_SLOW=10 PSP_PRELOAD="$$($(CC) -print-file-name=libtsan.so)" PSP_UNDER='setarch -R' \
	    TSAN_OPTIONS='die_after_fork=0 report_signal_unsafe=0' prove -It/lib $(ARGS) $(TSAN_TESTS)

# httpd and all that it forks, the notifier too; what is lost of memory when a process ends is an error.
valgrind: deps-test ## tests of the notifier (VALGRIND_TESTS) under valgrind
	@$(INSTALL_PACKAGES) $(PACKAGES_VALGRIND)
	@$(MAKE) --no-print-directory -s all $(NODE_MODULES) WERROR=1
	@PSP_BUILT=1 PSP_SLOW=10 PSP_UNDER='valgrind -q --leak-check=full --show-leak-kinds=definite --num-callers=30' \
	    prove -It/lib $(ARGS) $(VALGRIND_TESTS)

# Whoever runs the tests' processes may write the counts: the files are there before, and everybody's.
coverage: deps-test ## all tests, then how much of each C file they ran; fails below 85 % (MISSED=1: which lines not)
	@$(MAKE) --no-print-directory -s build/coverage/t/coverage/exit.o $(COVERAGE)
	@$(MAKE) --no-print-directory -s all unit $(NODE_MODULES) WERROR=1 $(COVERAGE)
	@$(BUILD_FUZZ)
	@find build/coverage -name '*.gcno' | sed 's/gcno$$/gcda/' | while read -r file; do \
	    install -D -m 0666 /dev/null "$$file" || exit 1; done
	@status=0; PSP_BUILT=1 PSP_BUILD=build/coverage PSP_SLOW=2 prove -It/lib -j$(JOBS) $(ARGS) $(TESTS) || status=1; \
	    $(MAKE) --no-print-directory -s coverage-report && exit $$status

coverage-report:
	@t/coverage/report build/coverage 85 $(SOURCES)

lint: deps-lint ## clang-format, cppcheck, clang-tidy, and the syntax of the scripts
	@$(MAKE) --no-print-directory -s -k lint-format lint-cppcheck lint-tidy lint-scripts

lint-format:
	clang-format --dry-run -Werror $(SOURCES) $(HEADERS) $(wildcard t/unit/*.c t/unit/*.h t/bench/*.c t/fault/*.c t/fuzz/*.[ch] t/coverage/*.c)

lint-cppcheck:
	cppcheck --quiet --std=c11 --enable=warning,performance,portability --inline-suppr \
	    --suppress=missingIncludeSystem --error-exitcode=1 -Isrc $(SOURCES)

lint-tidy: # stderr is only the count of what was found in the headers of others
	clang-tidy --quiet $(SOURCES) -- $(ALL_CFLAGS) 2>/dev/null

lint-scripts:
	sh -n t/lib/install-packages
	bash -n .ci/run
	for f in t/lib/PspTest.pm t/lib/PspTest/*.pm t/lib/PspTest/*/*.pm t/demo/demo t/*.t t/fault/*.t; do \
	    perl -It/lib -cw "$$f" 2>&1 | grep -v 'syntax OK$$' && exit 1; done; true
	find t conf -name '*.py' -exec $(PYTHON) -c \
	    'import ast, sys; [ast.parse(open(f).read(), f) for f in sys.argv[1:]]' '{}' +

format: ## let clang-format lay out all C files
	clang-format -i $(SOURCES) $(HEADERS) $(wildcard t/unit/*.c t/unit/*.h t/bench/*.c t/fault/*.c t/fuzz/*.[ch] t/coverage/*.c)

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

clean: ## remove what was built, and ./run/
	@if [ -L run ]; then rm -rf "$$(readlink run)"; fi
	rm -rf build run
