/* `tollgate run`: the master in this process, the gateway in a child of the same binary. */
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "backends/master.h"
#include "base/log.h"
#include "conf/load.h"
#include "gateway/command.h"
#include "gateway/gateway.h"

enum { DRAIN_MS_UNTIL_TOLD = 30000 };

int command_run(int argc, char **argv)
{
    static char executable[PATH_MAX], file[PATH_MAX];
    const char *given = NULL;
    int exit_code = COMMAND_DONE;
    const struct command_option options[] = {COMMAND_OPTION_CONFIG(&given)};
    const struct command_usage usage = {
        .name = "run",
        .synopsis = "[--config FILE]",
        .about = "Serve: start the gateway and the engines that the configuration names, until SIGTERM or Ctrl-C.\n"
                 "SIGHUP reads the configuration again. Logs go to standard error.\n",
        .options = options,
        .option_count = 1,
    };
    if (!command_parse(&usage, argc, argv, &exit_code))
        return exit_code;
    const char *found = command_config_file("run", given);
    if (found == NULL)
        return COMMAND_FAILED;
    if (realpath(found, file) == NULL)
        return command_fail("run", "cannot find the configuration file %s", found);
    if (realpath("/proc/self/exe", executable) == NULL)
        return command_fail("run", "cannot find this program's own file: is /proc mounted?");

    const char *const arguments[] = {executable, "gateway", "--config", file, NULL};
    const struct master_options master = {
        .executable = executable, .arguments = arguments, .drain_ms = DRAIN_MS_UNTIL_TOLD};
    log_configure(LOG_FORMAT_AUTO, LOG_INFO);
    (void) signal(SIGPIPE, SIG_IGN); /* a log that nobody reads ends nothing, */
    (void) signal(SIGXFSZ, SIG_IGN); /* nor does one that may not grow */
    return master_run(&master);
}

int command_gateway(int argc, char **argv)
{
    static struct gateway gateway;
    const char *file = NULL;
    int exit_code = COMMAND_DONE;
    const struct command_option options[] = {COMMAND_OPTION_CONFIG(&file)};
    const struct command_usage usage = {
        .name = "gateway",
        .synopsis = "--config FILE",
        .about = "The process that `tollgate run` starts and watches. Not for people.\n",
        .options = options,
        .option_count = 1,
    };
    if (!command_parse(&usage, argc, argv, &exit_code))
        return exit_code;
    log_configure(LOG_FORMAT_AUTO, LOG_INFO);
    if (file == NULL)
        return command_usage_error("gateway", "--config is missing");
    if (!gateway_boot(&gateway, file)) {
        log_stop_writer();
        return COMMAND_FAILED;
    }
    loop_run(gateway.loop);
    exit_code = gateway.master_gone ? COMMAND_FAILED : COMMAND_DONE;
    gateway_finish(&gateway);
    return exit_code;
}
