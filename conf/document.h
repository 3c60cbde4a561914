/* YAML text to a tree of nodes that know their places; refuses what a configuration never needs. */
#ifndef CONF_DOCUMENT_H
#define CONF_DOCUMENT_H

#include "base/arena.h"
#include "base/text.h"
#include "conf/problems.h"

enum { DOCUMENT_BYTES_MAX = 4 * 1024 * 1024, DOCUMENT_DEPTH_MAX = 16, DOCUMENT_NODES_MAX = 500000 };

enum node_kind { NODE_EMPTY, NODE_SCALAR, NODE_LIST, NODE_MAP };

/* One value of the document. Lives in the arena it was parsed into. */
struct node {
    enum node_kind kind;
    bool quoted;            /* SCALAR written with quotes or as a block */
    struct place place;     /* of the value */
    struct text key;        /* in a map: its name there; NUL-terminated */
    struct place key_place; /* in a map: where that name stands, else as @place */
    struct text text;       /* SCALAR as written, without quotes; NUL-terminated, no NUL inside */
    size_t count;           /* MAP, LIST: children */
    struct node *first;     /* MAP, LIST: children in the file's order, linked by @next */
    struct node *next;
    struct node *last;
    bool valid;        /* set by schema_check: @value and @number may be used */
    struct text value; /* set by schema_check: SCALAR with its ${…} replaced; NUL-terminated */
    int64_t number;    /* set by schema_check: what it means, in the unit of its type */
};

/* Parse @bytes of the file called @file. A document without any content is a NODE_EMPTY. NULL when there is no tree to
 * look at; with @problems->errors unchanged only when memory is exhausted (arena_overflowed). Problems found on the way
 * do not stop the parse where it can go on: look at @problems also when a tree is returned. */
struct node *document_parse(const char *file, struct text bytes, struct arena *arena, struct problem_list *problems);

/* The child of a MAP called @key, or NULL; NULL when @map is NULL or no MAP. */
struct node *node_child(const struct node *map, const char *key);

#endif
