/* A provider's rows against the ledger's cells, epoch by epoch. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"
#include "billing/audit.h"
#include "billing/provider.h"

enum { FIRST = 64 };

/* The rows of one tenant for which one answer counts. */
struct share {
    struct audit_total of;
    const struct row_entry *entry; /* of its tenant */
    int64_t delivered, open;
    bool was_sent; /* any of them; else the provider need not know the customer, or the meter */
};

/* When a meter was seen first. */
struct meter_age {
    const char *event_name;
    wall_ms first;
};

struct audit_rows {
    struct audit_source source;
    struct reconcile *lines;
    const struct row_entry **entries; /* all, by epoch */
    bool *seen;                       /* by place in @entries */
    size_t count;
    struct meter_age *ages; /* one each of the provider's meters */
    struct row *to_come;    /* counted as pending, although no state knows them yet */
    size_t to_come_count, to_come_capacity;
    struct share *shares;
    size_t share_count;
    struct audit_total *totals;
    size_t total_count;
    size_t unexplained;
};

/* ---- by epoch ---- */

static int compare_epochs(const struct ledger_name *a, const struct ledger_name *b)
{
    int order = strcmp(a->writer, b->writer);
    return order != 0 ? order : (a->epoch > b->epoch) - (a->epoch < b->epoch);
}

static int compare_entries(const void *left, const void *right)
{
    const struct row_entry *a = *(const struct row_entry *const *) left;
    const struct row_entry *b = *(const struct row_entry *const *) right;
    int order = compare_epochs(&a->row.name.epoch, &b->row.name.epoch);
    order = order != 0 ? order : strcmp(a->row.name.tenant, b->row.name.tenant);
    return order != 0 ? order : strcmp(a->row.name.meter, b->row.name.meter);
}

/* The first entry of the epoch, or where it would be. */
static size_t first_of(const struct audit_rows *rows, const struct ledger_name *epoch)
{
    size_t low = 0, high = rows->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (compare_epochs(&rows->entries[middle]->row.name.epoch, epoch) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool is_of(const struct audit_rows *rows, size_t place, const struct ledger_name *epoch)
{
    return place < rows->count && compare_epochs(&rows->entries[place]->row.name.epoch, epoch) == 0;
}

/* No meter took it when it was made: it sums one model and measure, also when a meter was added for it. */
static bool had_no_meter(const struct row *row)
{
    return !row->metered || row->event_name[0] != '\0';
}

static void note_age(struct audit_rows *rows, const struct row *row)
{
    for (size_t i = 0; i < rows->source.provider->meter_count; i++) {
        struct meter_age *age = &rows->ages[i];
        if (!had_no_meter(row) && strcmp(age->event_name, row->name.meter) == 0 && row->ended < age->first)
            age->first = row->ended;
    }
}

/* Rows of a writer are made in order of its epochs: all of this one have been made. */
static bool is_made(const struct audit_rows *rows, const struct ledger_name *epoch)
{
    return row_states_made(rows->source.states, epoch->writer) > epoch->epoch;
}

static void collect(struct audit_rows *rows)
{
    for (size_t i = 0; i < row_states_count(rows->source.states); i++) {
        const struct row_entry *entry = row_states_at(rows->source.states, i);
        note_age(rows, &entry->row);
        rows->entries[rows->count++] = entry;
    }
    if (rows->count > 0)
        qsort(rows->entries, rows->count, sizeof *rows->entries, compare_entries);
}

struct audit_rows *audit_rows_create(const struct audit_source *source)
{
    size_t count = row_states_count(source->states), meters = source->provider->meter_count;
    struct audit_rows *rows = calloc(1, sizeof *rows);
    if (rows == NULL)
        return NULL;
    rows->source = *source;
    rows->lines = reconcile_create();
    rows->entries = calloc(count + 1, sizeof *rows->entries);
    rows->seen = calloc(count + 1, sizeof *rows->seen);
    rows->ages = calloc(meters + 1, sizeof *rows->ages);
    if (rows->lines == NULL || rows->entries == NULL || rows->seen == NULL || rows->ages == NULL) {
        audit_rows_destroy(&rows);
        return NULL;
    }
    for (size_t i = 0; i < meters; i++)
        rows->ages[i] = (struct meter_age){source->provider->meters[i].event_name, INT64_MAX};
    collect(rows);
    return rows;
}

void audit_rows_destroy(struct audit_rows **rows)
{
    struct audit_rows *dying = *rows;
    *rows = NULL;
    if (dying == NULL)
        return;
    reconcile_destroy(&dying->lines);
    free(dying->entries);
    free(dying->seen);
    free(dying->ages);
    free(dying->to_come);
    free(dying->shares);
    free(dying->totals);
    free(dying);
}

/* ---- lines ---- */

/* Under the name by which the provider knows the meter. */
static bool add(struct audit_rows *rows, const struct row *row, enum reconcile_column column, int64_t quantity)
{
    struct row_name name = row->name;
    text_copy(name.meter, sizeof name.meter, text_of(row_event_name(row)));
    return reconcile_add(rows->lines, &name, row->ended, column, quantity);
}

static bool add_entry(struct audit_rows *rows, size_t place)
{
    const struct row_entry *entry = rows->entries[place];
    rows->seen[place] = true;
    return add(rows, &entry->row, reconcile_column_of(entry), entry->row.quantity);
}

/* What the two sides make of a row. */
static bool add_sums(struct audit_rows *rows, const struct row *row, int64_t ledger, int64_t redis)
{
    return add(rows, row, RECONCILE_LEDGER, ledger) && add(rows, row, RECONCILE_REDIS, redis);
}

/* ---- one epoch ---- */

/* The rows that one side's cells make, with those of rows that no meter took taken out before. */
struct made {
    struct row *rows; /* in order of tenant and meter */
    size_t count;
    int64_t *unmetered; /* by place among the epoch's entries: what stands in its cells */
};

struct epoch_at_hand {
    struct audit_rows *rows;
    const struct ledger_head *head;
    size_t first, count; /* entries */
};

static bool is_cell_of(const struct row *row, const struct cell *cell)
{
    return had_no_meter(row) && row->measure == cell->measure && text_equal(text_of(row->name.tenant), cell->tenant) &&
           text_equal(text_of(row->model), cell->model);
}

/* The entry that was made of this cell because no meter took it; count = none. */
static size_t unmetered_entry(const struct epoch_at_hand *at, const struct cell *cell)
{
    size_t place = 0;
    while (place < at->count && !is_cell_of(&at->rows->entries[at->first + place]->row, cell))
        place++;
    return place;
}

/* Into @rest, or into the sum of its entry. */
static bool sort_out(const struct epoch_at_hand *at, const struct cell *cell, struct cells *rest, struct made *made)
{
    size_t place = unmetered_entry(at, cell);
    if (place == at->count)
        return cells_add(rest, cell);
    if (__builtin_add_overflow(made->unmetered[place], cell->quantity, &made->unmetered[place])) {
        errno = EOVERFLOW;
        return false;
    }
    return true;
}

static bool make(const struct epoch_at_hand *at, const struct cells *cells, struct made *ret)
{
    struct cells *rest = cells_create();
    struct cell *sorted = cells_sorted(cells);
    *ret = (struct made){.unmetered = calloc(at->count + 1, sizeof *ret->unmetered)};
    bool good = rest != NULL && sorted != NULL && ret->unmetered != NULL;
    for (size_t i = 0; good && i < cells_count(cells); i++)
        good = sort_out(at, &sorted[i], rest, ret);
    const struct row_source source = {at->rows->source.provider, at->rows->source.install_id, at->head, rest};
    good = good && rows_make(&source, &ret->rows, &ret->count);
    int error = errno;
    free(sorted);
    cells_destroy(&rest);
    errno = error;
    return good;
}

static void finish_made(struct made *made)
{
    int error = errno;
    free(made->rows);
    free(made->unmetered);
    errno = error;
}

static int compare_names(const void *left, const void *right)
{
    const struct row *a = left, *b = right;
    int order = strcmp(a->name.tenant, b->name.tenant);
    order = order != 0 ? order : strcmp(a->name.meter, b->name.meter);
    return order != 0 ? order : (int) a->metered - (int) b->metered;
}

static const struct row *find(const struct made *made, const struct row *row)
{
    return made->count == 0 ? NULL : bsearch(row, made->rows, made->count, sizeof *made->rows, compare_names);
}

static int64_t quantity_in(const struct made *made, const struct row *row)
{
    const struct row *found = find(made, row);
    return found != NULL ? found->quantity : 0;
}

static bool has_meter(const struct audit_rows *rows, const char *event_name)
{
    const struct provider_policy *provider = rows->source.provider;
    for (size_t i = 0; i < provider->meter_count; i++) {
        if (strcmp(provider->meters[i].event_name, event_name) == 0)
            return true;
    }
    return provider->kind == PROVIDER_FILE; /* it needs none */
}

/* A row that is there: what the sides have for it. */
static bool audit_entry(const struct epoch_at_hand *at, size_t place, const struct made *ledger,
                        const struct made *redis)
{
    const struct row *row = &at->rows->entries[at->first + place]->row;
    bool is_metered = !had_no_meter(row);
    int64_t in_ledger = is_metered ? quantity_in(ledger, row) : ledger->unmetered[place];
    int64_t in_redis = in_ledger;
    if (redis != NULL)
        in_redis = is_metered ? quantity_in(redis, row) : redis->unmetered[place];
    if (is_metered && !has_meter(at->rows, row->name.meter)) {
        at->rows->unexplained++;
        in_ledger = in_redis = row->quantity;
    }
    return add_entry(at->rows, at->first + place) && add_sums(at->rows, row, in_ledger, in_redis);
}

/* Rows were made of this meter when the epoch ended. */
static bool had_meter(const struct epoch_at_hand *at, const struct row *row)
{
    const struct audit_rows *rows = at->rows;
    for (size_t i = 0; i < rows->source.provider->meter_count; i++) {
        if (row->metered && strcmp(rows->ages[i].event_name, row->name.meter) == 0)
            return rows->ages[i].first <= row->ended;
    }
    return rows->source.provider->kind == PROVIDER_FILE;
}

static bool has_entry(const struct epoch_at_hand *at, const struct row *row)
{
    for (size_t i = 0; i < at->count; i++) {
        if (strcmp(at->rows->entries[at->first + i]->row.id, row->id) == 0)
            return true;
    }
    return false;
}

static bool add_to_come(struct audit_rows *rows, const struct row *row)
{
    if (rows->to_come_count == rows->to_come_capacity) {
        size_t capacity = rows->to_come_capacity == 0 ? FIRST : rows->to_come_capacity * 2;
        struct row *more = realloc(rows->to_come, capacity * sizeof *more);
        if (more == NULL)
            return false;
        rows->to_come = more;
        rows->to_come_capacity = capacity;
    }
    rows->to_come[rows->to_come_count++] = *row;
    return add(rows, row, RECONCILE_PENDING, row->quantity);
}

/* A row that the ledger makes and nobody knows: it will be made, or it is lost, or it never was to be. */
static bool audit_missing(const struct epoch_at_hand *at, const struct row *row, const struct made *redis)
{
    bool is_fresh = row->ended > at->rows->source.now - AUDIT_FRESH_MS;
    bool is_to_come = is_fresh || (at->count == 0 && !is_made(at->rows, &row->name.epoch));
    int64_t in_redis = redis != NULL ? quantity_in(redis, row) : row->quantity;
    if (!is_to_come && !had_meter(at, row))
        return true;
    return (!is_to_come || add_to_come(at->rows, row)) && add_sums(at->rows, row, row->quantity, in_redis);
}

static bool audit_made(const struct epoch_at_hand *at, const struct made *ledger, const struct made *redis)
{
    bool good = true;
    for (size_t i = 0; good && i < at->count; i++)
        good = audit_entry(at, i, ledger, redis);
    for (size_t i = 0; good && i < ledger->count; i++) {
        if (!has_entry(at, &ledger->rows[i]))
            good = audit_missing(at, &ledger->rows[i], redis);
    }
    return good;
}

bool audit_rows_add_epoch(struct audit_rows *rows, const struct ledger_head *head, const struct cells *ledger,
                          const struct cells *redis)
{
    struct epoch_at_hand at = {.rows = rows, .head = head, .first = first_of(rows, &head->name)};
    struct made by_ledger = {0}, by_redis = {0};
    while (is_of(rows, at.first + at.count, &head->name))
        at.count++;
    if (head->ended < rows->source.since && at.count == 0)
        return true;
    bool good = make(&at, ledger, &by_ledger) && (redis == NULL || make(&at, redis, &by_redis)) &&
                audit_made(&at, &by_ledger, redis != NULL ? &by_redis : NULL);
    finish_made(&by_ledger);
    finish_made(&by_redis);
    return good;
}

/* ---- totals ---- */

static int compare_totals(const void *left, const void *right)
{
    const struct audit_total *a = left, *b = right;
    int order = strcmp(a->customer, b->customer);
    order = order != 0 ? order : strcmp(a->event_name, b->event_name);
    return order != 0 ? order : (a->hour > b->hour) - (a->hour < b->hour);
}

static int compare_shares(const void *left, const void *right)
{
    const struct share *a = left, *b = right;
    int order = compare_totals(&a->of, &b->of);
    return order != 0 ? order : strcmp(a->entry->row.name.tenant, b->entry->row.name.tenant);
}

/* Its customer may be NULL or "". */
static struct audit_total total_of(const struct audit_rows *rows, const struct row_entry *entry)
{
    return (struct audit_total){.customer = provider_row_customer(rows->source.policy, entry),
                                .event_name = row_event_name(&entry->row),
                                .hour = clock_hour(entry->row.ended)};
}

/* Nothing of it can be at the provider. */
static bool cannot_be_there(const struct row_entry *entry)
{
    return entry->state == ROW_REJECTED || (!row_state_is_delivered(entry->state) && entry->first_sent == 0);
}

static void add_share(struct audit_rows *rows, const struct row_entry *entry)
{
    const struct audit_total of = total_of(rows, entry);
    bool is_by_hand = row_entry_is_by_hand(entry);
    bool is_there = row_state_is_delivered(entry->state) && !is_by_hand;
    if (cannot_be_there(entry))
        return;
    if (of.customer == NULL || of.customer[0] == '\0') {
        rows->unexplained += !is_by_hand;
        return;
    }
    rows->shares[rows->share_count++] = (struct share){
        .of = of,
        .entry = entry,
        .delivered = is_there ? entry->row.quantity : 0,
        .open = is_there ? 0 : entry->row.quantity,
        .was_sent = !is_by_hand,
    };
}

/* One share a tenant and total. */
static bool merge_shares(struct audit_rows *rows)
{
    if (rows->share_count == 0)
        return true;
    qsort(rows->shares, rows->share_count, sizeof *rows->shares, compare_shares);
    size_t last = 0;
    bool fits = true;
    for (size_t i = 1; i < rows->share_count; i++) {
        struct share *to = &rows->shares[last];
        const struct share *from = &rows->shares[i];
        if (compare_shares(to, from) != 0) {
            rows->shares[++last] = *from;
            continue;
        }
        to->was_sent = to->was_sent || from->was_sent;
        fits = fits && !__builtin_add_overflow(to->delivered, from->delivered, &to->delivered) &&
               !__builtin_add_overflow(to->open, from->open, &to->open);
    }
    rows->share_count = last + 1;
    if (!fits)
        errno = EOVERFLOW;
    return fits;
}

static void make_totals(struct audit_rows *rows)
{
    for (size_t i = 0, count; i < rows->share_count; i += count) {
        const struct share *first = &rows->shares[i];
        bool was_sent = first->was_sent;
        for (count = 1; i + count < rows->share_count && compare_totals(&first->of, &first[count].of) == 0; count++)
            was_sent = was_sent || first[count].was_sent;
        if (was_sent)
            rows->totals[rows->total_count++] =
                (struct audit_total){first->of.customer, first->of.event_name, first->of.hour, i, count};
    }
}

/* A row whose epoch has no ledger file: it was removed with age, or it is lost. */
static bool audit_alone(struct audit_rows *rows, size_t place)
{
    const struct row *row = &rows->entries[place]->row;
    bool is_old = row->ended < rows->source.now - rows->source.retention_ms;
    int64_t quantity = is_old ? row->quantity : 0;
    return add_entry(rows, place) && add_sums(rows, row, quantity, quantity);
}

bool audit_rows_end(struct audit_rows *rows)
{
    bool good = true;
    ENSURE(rows->shares == NULL);
    rows->shares = calloc(rows->count + 1, sizeof *rows->shares);
    rows->totals = calloc(rows->count + 1, sizeof *rows->totals);
    if (rows->shares == NULL || rows->totals == NULL)
        return false;
    for (size_t i = 0; good && i < rows->count; i++) {
        wall_ms ended = rows->entries[i]->row.ended;
        if (ended < rows->source.from || ended >= rows->source.to)
            continue;
        if (!rows->seen[i])
            good = audit_alone(rows, i);
        if (provider_capabilities(rows->source.provider->kind)->can_tell)
            add_share(rows, rows->entries[i]);
    }
    good = good && merge_shares(rows);
    if (good)
        make_totals(rows);
    return good;
}

/* ---- what moved ---- */

/* It may be in the answer now. */
static void open_share(struct audit_rows *rows, const struct row_entry *entry)
{
    wall_ms hour = clock_hour(entry->row.ended);
    for (size_t i = 0; i < rows->share_count; i++) {
        struct share *share = &rows->shares[i];
        if (share->of.hour == hour && strcmp(share->of.event_name, row_event_name(&entry->row)) == 0 &&
            strcmp(share->entry->row.name.tenant, entry->row.name.tenant) == 0) {
            share->open += entry->row.quantity;
            return;
        }
    }
}

static bool is_to_come(const struct audit_rows *rows, const char *id)
{
    for (size_t i = 0; i < rows->to_come_count; i++) {
        if (strcmp(rows->to_come[i].id, id) == 0)
            return true;
    }
    return false;
}

/* A row that had no state before. */
static bool settle_new(struct audit_rows *rows, const struct row_entry *now)
{
    const struct row *row = &now->row;
    bool was_counted = is_to_come(rows, row->id);
    open_share(rows, now);
    if (was_counted && !add(rows, row, RECONCILE_PENDING, -row->quantity))
        return false;
    return (was_counted || add_sums(rows, row, row->quantity, row->quantity)) &&
           add(rows, row, RECONCILE_SENT, row->quantity);
}

static bool settle_one(struct audit_rows *rows, const struct row_entry *now)
{
    const struct row_entry *before = row_states_find(rows->source.states, now->row.id);
    if (now->row.ended < rows->source.from || now->row.ended >= rows->source.to)
        return true;
    if (before == NULL)
        return settle_new(rows, now);
    if (before->state == now->state && before->when == now->when)
        return true;
    if (cannot_be_there(before)) /* what can was counted as open, or delivered, before */
        open_share(rows, now);
    return before->state == ROW_SENT || row_state_is_delivered(before->state) ||
           (add(rows, &now->row, reconcile_column_of(before), -now->row.quantity) &&
            add(rows, &now->row, RECONCILE_SENT, now->row.quantity));
}

bool audit_rows_settle(struct audit_rows *rows, const struct row_states *later)
{
    bool good = true;
    for (size_t i = 0; good && i < row_states_count(later); i++)
        good = settle_one(rows, row_states_at(later, i));
    return good;
}

/* ---- answers ---- */

size_t audit_rows_totals(const struct audit_rows *rows, const struct audit_total **ret)
{
    *ret = rows->totals;
    return rows->total_count;
}

const struct audit_total *audit_rows_find_total(const struct audit_rows *rows, const struct row_entry *entry)
{
    const struct audit_total wanted = total_of(rows, entry);
    if (wanted.customer == NULL || rows->total_count == 0)
        return NULL;
    return bsearch(&wanted, rows->totals, rows->total_count, sizeof *rows->totals, compare_totals);
}

/* Tenants that share a customer share its total: each has what it delivered, then what may have arrived as far as it
 * goes; what is left over, or missing, stands with the last. */
bool audit_rows_answer(struct audit_rows *rows, const struct audit_total *total, int64_t quantity)
{
    int64_t rest = quantity;
    bool good = true;
    for (size_t i = 0; i < total->_count; i++)
        rest -= rows->shares[total->_first + i].delivered;
    for (size_t i = 0; good && i < total->_count; i++) {
        const struct share *share = &rows->shares[total->_first + i];
        bool is_last = i + 1 == total->_count;
        int64_t more = rest < share->open || is_last ? rest : share->open;
        more = more < 0 && !is_last ? 0 : more;
        rest -= more;
        good = add(rows, &share->entry->row, RECONCILE_PROVIDER, share->delivered + more);
    }
    return good;
}

bool audit_rows_has(struct audit_rows *rows, const struct row *row, int64_t quantity)
{
    return add(rows, row, RECONCILE_PROVIDER, quantity);
}

const struct reconcile_line *audit_rows_lines(struct audit_rows *rows, size_t *ret_count)
{
    return reconcile_lines(rows->lines, ret_count);
}

size_t audit_rows_unexplained(const struct audit_rows *rows)
{
    return rows->unexplained;
}
