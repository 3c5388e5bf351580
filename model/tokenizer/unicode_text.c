/* UTF-8 and character classes: see unicode_text.h. */
#include "model/tokenizer/unicode_text.h"

#include <assert.h>
#include <utf8proc.h>

/* utf8proc_iterate takes a signed length; no character needs more than four bytes. */
static utf8proc_ssize_t character_size(const char *text, size_t length, int32_t *character)
{
    return utf8proc_iterate((const utf8proc_uint8_t *)text, length < 4 ? (utf8proc_ssize_t)length : 4, character);
}

size_t utf8_valid_prefix(const char *text, size_t length)
{
    size_t at = 0;
    while (at < length) {
        if ((unsigned char)text[at] < 0x80) {
            at++;
            continue;
        }
        int32_t character;
        const utf8proc_ssize_t size = character_size(text + at, length - at, &character);
        if (size <= 0) break;
        at += (size_t)size;
    }
    return at;
}

int32_t utf8_first(const char *text, size_t length, size_t *size)
{
    int32_t character;
    const utf8proc_ssize_t n = character_size(text, length, &character);
    assert(n > 0);
    *size = (size_t)n;
    return character;
}

int32_t utf8_last(const char *text, size_t length, size_t *size)
{
    size_t start = length - 1;
    while (start > 0 && ((unsigned char)text[start] & 0xc0) == 0x80) start--;
    return utf8_first(text + start, length - start, size);
}

bool unicode_is_space(int32_t c)
{
    return (c >= 0x09 && c <= 0x0d) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680
           || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

/* Alphabetic beyond the letters, marks and letter numbers: circled and squared Latin letters (Other_Alphabetic in
 * PropList.txt). */
static bool is_enclosed_letter(int32_t c)
{
    return (c >= 0x24b6 && c <= 0x24e9) || (c >= 0x1f130 && c <= 0x1f149) || (c >= 0x1f150 && c <= 0x1f169)
           || (c >= 0x1f170 && c <= 0x1f189);
}

bool unicode_is_word(int32_t c)
{
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC: return true;
    default: return c == 0x200c || c == 0x200d || is_enclosed_letter(c);
    }
}

bool unicode_is_numeric(int32_t c)
{
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO: return true;
    default: return false;
    }
}

bool unicode_is_punctuation(int32_t c)
{
    if (c < 0x80)
        return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') || (c >= '{' && c <= '~');
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_PC:
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PO:
    case UTF8PROC_CATEGORY_PS: return true;
    default: return false;
    }
}
