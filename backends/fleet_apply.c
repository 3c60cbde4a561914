/* Making the instances be what the policy says. */
#include <stdlib.h>
#include <string.h>

#include "backends/children.h"
#include "backends/fleet.h"
#include "backends/fleet_private.h"
#include "backends/master.h"
#include "backends/spawn.h"
#include "backends/upkeep.h"
#include "base/log.h"
#include "base/panic.h"

/* ---- children that run since before this gateway ---- */

/* What the master runs, until an instance adopts it or it is stopped. */
struct orphan {
    char name[MASTER_NAME_BYTES_MAX + 1];
    struct child_info info;
    bool has_settings;
    uint8_t settings_hash[32];
    int port;
    bool adopted;
};

struct orphans {
    struct orphan *at;
    size_t count;
};

static void note_orphan(void *owner, const struct child_info *info)
{
    struct orphans *orphans = owner;
    struct orphan *orphan = &orphans->at[orphans->count];

    if (orphans->count == MASTER_CHILDREN_MAX)
        return;
    orphans->count++;
    text_copy(orphan->name, sizeof(orphan->name), text_of(info->name));
    orphan->info = *info;
    orphan->info.name = orphan->name;
    orphan->info.note = NULL;
    orphan->has_settings = spawn_note_read(info->note, orphan->settings_hash, &orphan->port);
}

static void find_orphans(struct fleet *fleet, struct orphans *orphans)
{
    orphans->at = calloc(MASTER_CHILDREN_MAX, sizeof(*orphans->at));
    if (orphans->at != NULL)
        children_each(fleet->children, note_orphan, orphans);
}

static bool adopt(struct instance *instance, struct orphans *orphans)
{
    for (size_t i = 0; i < orphans->count; i++) {
        struct orphan *orphan = &orphans->at[i];

        if (orphan->adopted || strcmp(orphan->name, instance->name) != 0)
            continue;
        if (!orphan->has_settings || memcmp(orphan->settings_hash, instance->settings_hash, 32) != 0)
            return false;
        orphan->adopted = true;
        upkeep_adopt(instance, &orphan->info, orphan->port);
        return true;
    }
    return false;
}

/* Stop what nobody adopted. Until it has ended it stands in the line of its model as an instance that is leaving, so
 * that a new one of its name waits for it. */
static void stop_orphan(struct fleet *fleet, struct orphan *orphan)
{
    static const char *const ARGUMENTS[] = {SPAWN_PORT, NULL};
    static const char *const NO_ENVIRONMENT[] = {NULL};
    const char *last_slash = strrchr(orphan->name, '/');
    size_t length = last_slash != NULL ? (size_t) (last_slash - orphan->name) : strlen(orphan->name);
    char model_name[sizeof(orphan->name)];
    struct engine engine = {.name = orphan->name,
                            .model = model_name,
                            .arguments = ARGUMENTS,
                            .argument_count = 1,
                            .environment = NO_ENVIRONMENT,
                            .working_directory = "/"};
    struct model model = {.name = model_name, .engine_model = model_name, .engines = &engine, .engine_count = 1};
    struct instance *instance = NULL;
    struct line *line;

    text_copy(model_name, sizeof(model_name), (struct text){orphan->name, length});
    line = fleet_find_or_make_line(fleet, model_name);
    if (line != NULL)
        instance = instance_create(line, &model, &engine, "");
    if (instance == NULL || !line_add(line, instance)) {
        instance_destroy(&instance);
        children_stop(fleet->children, orphan->name, UPKEEP_STOP_GRACE_MS);
        return;
    }
    instance->fleet = fleet;
    instance->has_child = true;
    instance->pid = orphan->info.pid;
    instance_set_state(instance, INSTANCE_STARTING, "runs since before this gateway, with other settings");
    upkeep_leave(instance);
}

/* ---- engines ---- */

/* The instance that is already what @engine says. One that is draining may stay after all. */
static struct instance *find_match(struct line *line, const struct model *model, const struct engine *engine)
{
    struct instance *found = NULL;

    for (size_t i = 0; i < line->count; i++) {
        struct instance *instance = line->instances[i];

        if (instance->wanted || (instance->leaving && instance->state != INSTANCE_DRAINING))
            continue;
        if (!instance_matches(instance, model, engine))
            continue;
        if (found == NULL || found->leaving)
            found = instance;
    }
    return found;
}

static void keep_matches(struct line *line, const struct model *model)
{
    for (size_t i = 0; i < line->count; i++)
        line->instances[i]->wanted = false;
    for (size_t i = 0; i < model->engine_count; i++) {
        struct instance *instance = find_match(line, model, &model->engines[i]);

        if (instance == NULL)
            continue;
        instance->wanted = true;
        instance_update(instance, model, &model->engines[i]);
    }
}

static void leave_others(struct line *line)
{
    /* From the end: an instance may be taken out. */
    for (size_t i = line->count; i > 0; i--) {
        struct instance *instance = line->instances[i - 1];

        if (!instance->wanted && !instance->leaving)
            upkeep_leave(instance);
    }
    for (size_t i = 0; i < line->count; i++) {
        if (line->instances[i]->wanted && line->instances[i]->leaving)
            upkeep_stay(line->instances[i]);
    }
}

static bool has_wanted(const struct line *line, const char *name)
{
    for (size_t i = 0; i < line->count; i++) {
        if (line->instances[i]->wanted && strcmp(line->instances[i]->name, name) == 0)
            return true;
    }
    return false;
}

static void add_new(struct fleet *fleet, struct line *line, const struct model *model)
{
    for (size_t i = 0; i < model->engine_count; i++) {
        const struct engine *engine = &model->engines[i];
        struct instance *instance;

        if (has_wanted(line, engine->name))
            continue;
        instance = instance_create(line, model, engine, fleet->runtime_dir);
        if (instance == NULL || !line_add(line, instance)) {
            log_event(LOG_ERROR, "engine", "%s is left out: no memory, or too many engines", engine->name);
            instance_destroy(&instance);
            continue;
        }
        instance->fleet = fleet;
        instance->wanted = true;
    }
}

static void apply_model(struct fleet *fleet, const struct model *model)
{
    struct line *line = fleet_find_or_make_line(fleet, model->name);

    if (line == NULL) {
        log_event(LOG_ERROR, "engine", "model %s is left out: no memory", model->name);
        return;
    }
    line->wanted = true;
    line_configure(line, model);
    keep_matches(line, model);
    /* The new ones first: a line without any instance refuses all who wait. */
    add_new(fleet, line, model);
    leave_others(line);
}

/* ---- starting what is new ---- */

static struct instance *find_running(struct line *line, const struct instance *successor)
{
    for (size_t i = 0; i < line->count; i++) {
        struct instance *other = line->instances[i];

        if (other != successor && other->has_child && strcmp(other->name, successor->name) == 0)
            return other;
    }
    return NULL;
}

static void begin_new(struct line *line)
{
    for (size_t i = 0; i < line->count; i++) {
        struct instance *instance = line->instances[i];

        if (instance->state != INSTANCE_STOPPED || instance->leaving || instance->predecessor != NULL)
            continue;
        if (instance->is_spawned)
            instance->predecessor = find_running(line, instance);
        if (instance->predecessor == NULL)
            upkeep_begin(instance);
    }
    line_serve(line);
}

static void adopt_or_stop_orphans(struct fleet *fleet)
{
    struct orphans orphans = {0};

    find_orphans(fleet, &orphans);
    for (struct line *line = fleet->lines; line != NULL; line = line->next) {
        for (size_t i = 0; i < line->count; i++) {
            if (line->instances[i]->is_spawned)
                adopt(line->instances[i], &orphans);
        }
    }
    for (size_t i = 0; i < orphans.count; i++) {
        if (!orphans.at[i].adopted)
            stop_orphan(fleet, &orphans.at[i]);
    }
    free(orphans.at);
}

void fleet_apply(struct fleet *fleet, const struct policy *policy)
{
    char *runtime_dir = strdup(policy->runtime_dir != NULL ? policy->runtime_dir : "");

    if (runtime_dir == NULL) {
        log_event(LOG_ERROR, "engine", "the engines stay as they are: no memory");
        return;
    }
    free(fleet->runtime_dir);
    fleet->runtime_dir = runtime_dir;
    for (struct line *line = fleet->lines; line != NULL; line = line->next)
        line->wanted = false;
    for (size_t i = 0; i < policy->model_count; i++)
        apply_model(fleet, &policy->models[i]);
    if (!fleet->applied && fleet->children != NULL)
        adopt_or_stop_orphans(fleet);
    fleet->applied = true;
    for (struct line *line = fleet->lines; line != NULL; line = line->next)
        begin_new(line);
    fleet_want_sweep(fleet);
}
