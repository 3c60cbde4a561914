/* billing: segments of arbitrary bytes. What is decoded is whole, recovery ends, and repeating it changes nothing. The
 * first byte says where the second segment begins, and whether the records get right heads: else hardly any is read. */
#include <endian.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "billing/journal_verify.h"
#include "billing/recover.h"

#include "tests/fuzz/pieces.h"

enum { PAYLOAD_LENGTH_BYTES = 1, CONTENT_BYTES_MAX = 256 * 1024 };

static char directory[64];

static void name_segment(char to[128], unsigned number)
{
    snprintf(to, 128, "%s/%08u.seg", directory, number);
}

static void remove_directory(void)
{
    char path[128];
    for (unsigned number = 1; number <= 2; number++) {
        name_segment(path, number);
        (void) unlink(path);
    }
    (void) rmdir(directory);
}

static void make_directory(void)
{
    if (directory[0] != '\0')
        return;
    snprintf(directory, sizeof directory, "/tmp/fuzz-journal-XXXXXX");
    MUST(mkdtemp(directory) != NULL && atexit(remove_directory) == 0);
}

static void write_segment(unsigned number, struct text bytes)
{
    char path[128];
    name_segment(path, number);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    MUST(fd >= 0 && write(fd, bytes.at, bytes.length) == (ssize_t) bytes.length && close(fd) == 0);
}

static uint32_t digest(unsigned number)
{
    static char bytes[CONTENT_BYTES_MAX];
    char path[128];
    name_segment(path, number);
    int fd = open(path, O_RDONLY);
    ssize_t length = fd >= 0 ? read(fd, bytes, sizeof bytes) : 0;
    MUST(length >= 0);
    if (fd >= 0)
        close(fd);
    return crc32c(0, bytes, (size_t) length);
}

/* Each piece of the input, one byte of length before it, as a type and payload in a right frame. */
static size_t frame(struct text rest, char *to, size_t capacity)
{
    size_t length = 0;
    uint64_t sequence = 0;
    while (rest.length > PAYLOAD_LENGTH_BYTES && length + RECORD_HEAD_BYTES + UINT8_MAX < capacity) {
        size_t piece = (uint8_t) rest.at[0];
        piece = piece > rest.length - PAYLOAD_LENGTH_BYTES ? rest.length - PAYLOAD_LENGTH_BYTES : piece;
        if (piece == 0)
            break;
        char *head = to + length;
        uint32_t payload = htole32((uint32_t) piece - 1), crc;
        uint64_t little = htole64(++sequence);
        memcpy(head, &payload, sizeof payload);
        memcpy(head + 8, &little, sizeof little);
        memcpy(head + 16, rest.at + PAYLOAD_LENGTH_BYTES, piece);
        crc = htole32(crc32c(crc32c(0, head, 4), head + 8, 8 + piece));
        memcpy(head + 4, &crc, sizeof crc);
        length += 16 + piece;
        rest.at += PAYLOAD_LENGTH_BYTES + piece;
        rest.length -= PAYLOAD_LENGTH_BYTES + piece;
    }
    return length;
}

/* Whatever is read can be written again, and is the same; returns how it ended. */
static enum journal_read read_all(void)
{
    struct record record;
    struct journal_reader *reader = journal_reader_create(directory, NULL);
    struct journal_verifier *verifier = journal_verifier_create(true);
    enum journal_read result;
    bool is_right = true;
    MUST(reader != NULL && verifier != NULL);
    for (uint64_t sequence = 1; (result = journal_read_next(reader, &record)) == JOURNAL_RECORD; sequence++) {
        char bytes[RECORD_BYTES_MAX];
        struct record again;
        size_t length = record_encode(&record, bytes), found = 0;
        MUST(record.sequence == sequence);
        MUST(record_decode((struct text){bytes, length}, &again, &found) == RECORD_DECODED && found == length);
        is_right = is_right && journal_verifier_take(verifier, &record) == NULL;
    }
    journal_verifier_destroy(&verifier);
    journal_reader_destroy(&reader);
    return result;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char content[CONTENT_BYTES_MAX / 4];
    struct recovery found, again;
    if (size == 0 || size > CONTENT_BYTES_MAX / 8)
        return 0;
    make_directory();
    struct text bytes = {(const char *) data + 1, size - 1};
    if (data[0] % 2 == 0)
        bytes = (struct text){content, frame(bytes, content, sizeof content)};
    size_t cut = data[0] < 16 ? bytes.length : bytes.length * data[0] / 256;
    write_segment(1, (struct text){bytes.at, cut});
    write_segment(2, (struct text){bytes.at + cut, bytes.length - cut});
    enum journal_read end = read_all();
    bool recovered = journal_recover(directory, true, &found);
    MUST(recovered == (end == JOURNAL_NO_MORE_YET));
    uint32_t first = digest(1), second = digest(2);
    MUST(!recovered || read_all() == JOURNAL_NO_MORE_YET);
    MUST(!recovered || (journal_recover(directory, true, &again) && again.crashed_requests == 0));
    MUST(first == digest(1) && second == digest(2));
    return 0;
}
