/* Options, help and complaints, the same for every command. */
#include "gateway/command.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "conf/suggest.h"

static void print_usage(const struct command_usage *usage)
{
    printf("Usage: tollgate %s%s%s\n\n%s\nOptions:\n", usage->name, usage->synopsis[0] != '\0' ? " " : "",
           usage->synopsis, usage->about);
    for (size_t i = 0; i < usage->option_count; i++) {
        const struct command_option *option = &usage->options[i];
        char memory[64];
        struct builder left;
        builder_init(&left, memory, sizeof(memory));
        builder_format(&left, "--%s%s%s", option->name, option->value_name != NULL ? " " : "",
                       option->value_name != NULL ? option->value_name : "");
        printf("  %-20s %s\n", builder_string(&left), option->help);
    }
    printf("  %-20s %s\n", "--help", "print this");
}

__attribute__((format(printf, 2, 0))) static void print_error(const char *name, const char *format, va_list arguments)
{
    fprintf(stderr, "tollgate %s: ", name);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
}

int command_usage_error(const char *name, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    print_error(name, format, arguments);
    va_end(arguments);
    fprintf(stderr, "Try `tollgate %s --help`.\n", name);
    return COMMAND_USAGE;
}

int command_fail(const char *name, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    print_error(name, format, arguments);
    va_end(arguments);
    return COMMAND_FAILED;
}

static const struct command_option *find_option(const struct command_usage *usage, struct text name)
{
    for (size_t i = 0; i < usage->option_count; i++) {
        if (text_equal(name, text_of(usage->options[i].name))) {
            return &usage->options[i];
        }
    }
    return NULL;
}

static int unknown_option(const struct command_usage *usage, struct text name)
{
    struct suggestion near = {0};
    for (size_t i = 0; i < usage->option_count; i++) {
        suggest_look_at(&near, name, usage->options[i].name);
    }
    suggest_look_at(&near, name, "help");
    if (near.best == NULL) {
        return command_usage_error(usage->name, "unknown option \"--%.*s\"", TEXT_ARGUMENTS(name));
    }
    return command_usage_error(usage->name, "unknown option \"--%.*s\"; did you mean \"--%s\"?", TEXT_ARGUMENTS(name),
                               near.best);
}

/* The option at @argv[0]. Returns how many words it took, or 0 when it is a mistake (said). */
static int take_option(const struct command_usage *usage, char **argv)
{
    const char *equals = strchr(argv[0], '=');
    struct text name = text_of(argv[0] + 2);
    if (equals != NULL) {
        name.length = (size_t) (equals - name.at);
    }
    const struct command_option *option = find_option(usage, name);
    if (option == NULL) {
        unknown_option(usage, name);
        return 0;
    }
    if (option->value_name == NULL && equals != NULL) {
        command_usage_error(usage->name, "--%s takes no value", option->name);
        return 0;
    }
    if (option->value_name == NULL) {
        *option->flag = true;
        return 1;
    }
    const char *value = equals != NULL ? equals + 1 : argv[1]; /* NULL after the last word */
    if (value == NULL || value[0] == '\0' || (equals == NULL && strncmp(value, "--", 2) == 0)) {
        command_usage_error(usage->name, "--%s needs a value: %s", option->name, option->value_name);
        return 0;
    }
    if (*option->value != NULL) {
        command_usage_error(usage->name, "--%s is given twice", option->name);
        return 0;
    }
    *option->value = value;
    return equals != NULL ? 1 : 2;
}

/* As take_option, for an argument that is none. */
static int take_word(const struct command_usage *usage, const char *word)
{
    if (usage->word == NULL || *usage->word != NULL || word[0] == '-' || word[0] == '\0') {
        command_usage_error(usage->name, "unexpected argument \"%s\"", word);
        return 0;
    }
    *usage->word = word;
    return 1;
}

bool command_parse(const struct command_usage *usage, int argc, char **argv, int *ret_exit)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            print_usage(usage);
            *ret_exit = COMMAND_DONE;
            return false;
        }
    }
    for (int i = 1; i < argc;) {
        int taken = strncmp(argv[i], "--", 2) == 0 ? take_option(usage, argv + i) : take_word(usage, argv[i]);
        if (taken == 0) {
            *ret_exit = COMMAND_USAGE;
            return false;
        }
        i += taken;
    }
    return true;
}

const char *command_config_file(const char *name, const char *given)
{
    if (given != NULL) {
        return given; /* never another file than the one that was named */
    }
    const char *found = config_file_find(NULL);
    if (found == NULL) {
        command_fail(name,
                     "there is no ./tollgate.yaml and no /etc/tollgate/tollgate.yaml: name one with --config FILE");
    }
    return found;
}

void command_print_problems(const struct problem_list *problems)
{
    struct text text = buffer_text(&problems->text);
    if (text.length > 0) { /* an empty buffer has no memory, which fwrite may not be given */
        fwrite(text.at, 1, text.length, stderr);
    }
}

const struct policy *command_load(const char *name, const char *file)
{
    struct problem_list problems;
    problem_list_init(&problems);
    struct bundle *bundle = bundle_read(file, &problems);
    const struct policy *policy = bundle == NULL ? NULL : policy_load(bundle, LOAD_CHECK, &problems);
    bundle_destroy(&bundle);
    if (policy == NULL) {
        command_print_problems(&problems);
        command_fail(name, "%s has errors", file);
    }
    problem_list_finish(&problems);
    return policy;
}

int command_print_json(const char *name, struct json_t *value)
{
    if (value == NULL) {
        return command_fail(name, "no JSON: memory is exhausted, or a name is not UTF-8");
    }
    int dumped = json_dumpf(value, stdout, JSON_INDENT(2));
    json_decref(value);
    if (dumped != 0) {
        return command_fail(name, "the JSON cannot be written");
    }
    putchar('\n');
    return COMMAND_DONE;
}

const struct model *command_find_model(const char *name, const struct policy *policy, const char *wanted)
{
    const struct model *model = policy_model(policy, text_of(wanted));
    struct suggestion near = {0};
    for (size_t i = 0; model == NULL && i < policy->model_count; i++)
        suggest_look_at(&near, text_of(wanted), policy->models[i].name);
    if (model == NULL && near.best != NULL)
        command_fail(name, "--model: there is no \"%s\"; did you mean \"%s\"?", wanted, near.best);
    else if (model == NULL)
        command_fail(name, "--model: there is no \"%s\"", wanted);
    return model;
}
