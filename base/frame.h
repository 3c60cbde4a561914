/* Bounded messages with file descriptors between two processes, over a SOCK_SEQPACKET socketpair: one packet is one
 * frame. */
#ifndef BASE_FRAME_H
#define BASE_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"

enum { FRAME_BYTES_MAX = 160 * 1024, FRAME_FIELD_BYTES_MAX = 80 * 1024 };

/* What is sent: a type byte, then fields appended in order. Plain value; memory is the caller's. */
struct frame_writer {
    struct builder builder;
};

/* @memory holds @capacity bytes, of which the last stays unused: FRAME_BYTES_MAX for the largest frame, fewer if the
 * caller knows its bounds. */
void frame_begin(struct frame_writer *frame, char *memory, size_t capacity, uint8_t type);
void frame_add_int(struct frame_writer *frame, int64_t value);
void frame_add_text(struct frame_writer *frame, struct text value);
/* Send with @fd (-1 = none), waiting at most @wait_ms for room. False on overflow, error or time-out. The fd stays the
 * caller's. */
bool frame_send(int socket, const struct frame_writer *frame, int fd, int wait_ms);

/* What was received: fields are read back in the order they were added. Slices point into the caller's memory. */
struct frame_reader {
    uint8_t type;
    int fd; /* -1, or a descriptor that now belongs to the caller; close-on-exec */
    struct text rest;
    bool broken; /* a field was missing or malformed; sticky */
};

enum frame_result { FRAME_RECEIVED, FRAME_NOTHING_YET, FRAME_CLOSED };

/* Never blocks. A packet that is no frame counts as CLOSED: the peer is not ours. */
enum frame_result frame_receive(int socket, char *memory, size_t capacity, struct frame_reader *ret);
/* 0 or empty, and broken, when the next field is missing or of the other kind. */
int64_t frame_read_int(struct frame_reader *frame);
struct text frame_read_text(struct frame_reader *frame);

#endif
