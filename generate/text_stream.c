/* See generate/text_stream.h. */
#include "generate/text_stream.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer/unicode_text.h"

static const char REPLACEMENT[] = "\xef\xbf\xbd"; /* U+FFFD */

static rb_status append(text_stream *s, const char *bytes, size_t n, rb_error *err)
{
    if (s->length + n + 1 > s->room) {
        const size_t room = 2 * (s->length + n + 1);
        char *more = realloc(s->text, room);
        if (!more) return rb_fail(err, RB_ENOMEM, "text: no memory for %zu bytes", room);
        s->text = more;
        s->room = room;
    }
    memcpy(s->text + s->length, bytes, n);
    s->length += n;
    s->text[s->length] = '\0';
    return RB_OK;
}

static size_t character_bytes(unsigned char lead)
{
    return lead >= 0xf0 && lead <= 0xf4 ? 4 : lead >= 0xe0 ? lead < 0xf0 ? 3 : 1 : lead >= 0xc2 ? 2 : 1;
}

/* Whether 1 to 3 bytes are the beginning of a character, whole ones excluded: with the least or the greatest bytes that
 * may go on they are valid. */
static bool is_beginning(const char *bytes, size_t n)
{
    const size_t wanted = character_bytes((unsigned char)bytes[0]);
    char least[4], greatest[4];
    if (n >= wanted) return false;
    memset(least, 0x80, sizeof least);
    memset(greatest, 0xbf, sizeof greatest);
    memcpy(least, bytes, n);
    memcpy(greatest, bytes, n);
    return utf8_valid_prefix(least, wanted) == wanted || utf8_valid_prefix(greatest, wanted) == wanted;
}

/* Whole characters of the bytes go to the text, and a beginning at the end becomes pending. */
static rb_status take(text_stream *s, const char *bytes, size_t n, rb_error *err)
{
    rb_status st = RB_OK;
    s->n_pending = 0;
    while (n > 0 && st == RB_OK) {
        const size_t n_valid = utf8_valid_prefix(bytes, n);
        st = append(s, bytes, n_valid, err);
        bytes += n_valid;
        n -= n_valid;
        if (n == 0 || st != RB_OK) break;
        if (n < sizeof s->pending && is_beginning(bytes, n)) {
            memcpy(s->pending, bytes, n);
            s->n_pending = n;
            break;
        }
        st = append(s, REPLACEMENT, sizeof REPLACEMENT - 1, err);
        bytes++;
        n--;
    }
    return st;
}

rb_status text_stream_add(text_stream *s, const char *bytes, size_t n, rb_error *err)
{
    char *all = NULL;
    rb_status st = append(s, "", 0, err); /* there is a text, if an empty one */
    if (st != RB_OK || n == 0) return st;
    st = rb_alloc(&all, s->n_pending + n, 1, "text", err);
    if (st != RB_OK) return st;
    memcpy(all, s->pending, s->n_pending);
    memcpy(all + s->n_pending, bytes, n);
    st = take(s, all, s->n_pending + n, err);
    free(all);
    return st;
}

rb_status text_stream_finish(text_stream *s, rb_error *err)
{
    if (s->n_pending == 0) return RB_OK;
    s->n_pending = 0;
    return append(s, REPLACEMENT, sizeof REPLACEMENT - 1, err);
}

void text_stream_free(text_stream *s)
{
    free(s->text);
    *s = (text_stream){0};
}
