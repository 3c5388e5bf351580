/* GPT-2's byte alphabet: see byte_level.h. */
#include "model/tokenizer/byte_level.h"

#include <stdint.h>

enum { CONTROL_END = 0x21, HIGH_BEGIN = 0x7f, HIGH_END = 0xa1, SOFT_HYPHEN = 0xad };
enum {
    SYMBOL_CONTROL = 0x100,
    SYMBOL_HIGH = SYMBOL_CONTROL + CONTROL_END,
    SYMBOL_SOFT_HYPHEN = SYMBOL_HIGH + HIGH_END - HIGH_BEGIN
};

static int32_t symbol_of_byte(int32_t byte)
{
    if (byte < CONTROL_END) return SYMBOL_CONTROL + byte;
    if (byte >= HIGH_BEGIN && byte < HIGH_END) return SYMBOL_HIGH + byte - HIGH_BEGIN;
    return byte == SOFT_HYPHEN ? SYMBOL_SOFT_HYPHEN : byte;
}

/* -1 for a character outside the alphabet. */
static int32_t byte_of_symbol(int32_t symbol)
{
    int32_t byte = symbol;
    if (symbol >= SYMBOL_CONTROL && symbol < SYMBOL_HIGH) byte = symbol - SYMBOL_CONTROL;
    if (symbol >= SYMBOL_HIGH && symbol < SYMBOL_SOFT_HYPHEN) byte = symbol - SYMBOL_HIGH + HIGH_BEGIN;
    if (symbol == SYMBOL_SOFT_HYPHEN) byte = SOFT_HYPHEN;
    return byte < 0x100 && symbol_of_byte(byte) == symbol ? byte : -1;
}

size_t byte_level_symbol(unsigned char byte, char out[BYTE_LEVEL_MAX_SIZE])
{
    const int32_t symbol = symbol_of_byte(byte);
    if (symbol < 0x80) {
        out[0] = (char)symbol;
        return 1;
    }
    out[0] = (char)(0xc0 | symbol >> 6);
    out[1] = (char)(0x80 | (symbol & 0x3f));
    return 2;
}

size_t byte_level_encode(const char *bytes, size_t length, char *out)
{
    size_t size = 0;
    for (size_t i = 0; i < length; i++) size += byte_level_symbol((unsigned char)bytes[i], out + size);
    return size;
}

bool byte_level_decode(const char *text, size_t length, char *out, size_t *out_length)
{
    size_t n = 0;
    for (size_t at = 0; at < length;) {
        int32_t symbol = (unsigned char)text[at++];
        if (symbol >= 0x80) {
            /* Every symbol is below U+0800: one lead byte c2-df, one continuation byte. */
            if (symbol < 0xc2 || symbol > 0xdf || at == length || ((unsigned char)text[at] & 0xc0) != 0x80)
                return false;
            symbol = (symbol & 0x1f) << 6 | ((unsigned char)text[at++] & 0x3f);
        }
        const int32_t byte = byte_of_symbol(symbol);
        if (byte < 0) return false;
        out[n++] = (char)byte;
    }
    *out_length = n;
    return true;
}
