/* `tollgate schema`: what may stand in the configuration, for editors and for readers. */
#include <stdio.h>

#include "conf/schema.h"
#include "gateway/command.h"

enum { SCHEMA_BYTES_MAX = 1024 * 1024 };

static int print_schema(bool markdown)
{
    struct buffer document;
    buffer_init(&document, SCHEMA_BYTES_MAX);
    bool written = markdown ? schema_write_markdown(&document) : schema_write_json(&document);
    int exit_code = COMMAND_DONE;
    if (written) {
        struct text text = buffer_text(&document);
        fwrite(text.at, 1, text.length, stdout);
    } else {
        exit_code = command_fail("schema", "memory is exhausted");
    }
    buffer_finish(&document);
    return exit_code;
}

int command_schema(int argc, char **argv)
{
    bool markdown = false;
    const struct command_option options[] = {
        {.name = "markdown", .help = "print a table of all settings instead", .flag = &markdown},
    };
    const struct command_usage usage = {
        .name = "schema",
        .synopsis = "[--markdown]",
        .about = "Print the configuration's JSON Schema (draft-07). An editor that speaks YAML checks while you\n"
                 "type when the file starts with\n\n"
                 "  # yaml-language-server: $schema=tollgate.schema.json\n",
        .options = options,
        .option_count = sizeof(options) / sizeof(options[0]),
    };
    int exit_code = COMMAND_DONE;
    if (!command_parse(&usage, argc, argv, &exit_code)) {
        return exit_code;
    }
    return print_schema(markdown);
}
