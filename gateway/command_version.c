/* `tollgate version`: ours, and those of the libraries that this process really loaded. */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>
#include <openssl/crypto.h>

#include "gateway/command.h"

typedef const char *library_version(void);

/* Their headers have one owner each elsewhere in the house: the functions are looked up by name. */
static const struct {
    const char *library;
    const char *function;
} LIBRARIES[] = {
    {"libmicrohttpd", "MHD_get_version"},
    {"libcurl", "curl_version"},
    {"jansson", "jansson_version_str"},
    {"libyaml", "yaml_get_version_string"},
};

/* NULL when the library is not there. */
static const char *loaded_version(const char *function)
{
    void *symbol = dlsym(RTLD_DEFAULT, function);
    if (symbol == NULL) {
        return NULL;
    }
    library_version *version;
    memcpy(&version, &symbol, sizeof(version)); /* ISO C has no cast from an object to a function */
    return version();
}

static int print_json(void)
{
    json_t *libraries = json_object();
    json_object_set_new(libraries, "openssl", json_string(OpenSSL_version(OPENSSL_VERSION)));
    for (size_t i = 0; i < sizeof(LIBRARIES) / sizeof(LIBRARIES[0]); i++) {
        const char *version = loaded_version(LIBRARIES[i].function);
        if (version != NULL) {
            json_object_set_new(libraries, LIBRARIES[i].library, json_string(version));
        }
    }
    return command_print_json("version", json_pack("{s:s, s:o}", "version", TOLLGATE_VERSION, "libraries", libraries));
}

int command_version(int argc, char **argv)
{
    bool json = false;
    const struct command_option options[] = {COMMAND_OPTION_JSON(&json)};
    const struct command_usage usage = {
        .name = "version",
        .synopsis = "[--json]",
        .about = "Print Tollgate's version; as JSON, those of its libraries too.\n",
        .options = options,
        .option_count = sizeof(options) / sizeof(options[0]),
    };
    int exit_code = COMMAND_DONE;
    if (!command_parse(&usage, argc, argv, &exit_code)) {
        return exit_code;
    }
    if (json) {
        return print_json();
    }
    puts("tollgate " TOLLGATE_VERSION);
    return COMMAND_DONE;
}
