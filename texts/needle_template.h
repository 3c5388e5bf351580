/* The words that needle documents are made of: a template file (docs/needles.md), JSON of schema "ropebits-needles".
 *
 * A needle is a statement about a key and a value ("The secret number of the red fox is 12345."); a question asks for
 * it later. Keys are a colour and a thing, values numbers of a fixed length. The templates of configs/needles are
 * compiled in under their names, so that every program has them. */
#ifndef RB_TEXTS_NEEDLE_TEMPLATE_H
#define RB_TEXTS_NEEDLE_TEMPLATE_H

#include "core/status.h"

#define NEEDLE_TEMPLATE_SCHEMA  "ropebits-needles"
#define NEEDLE_TEMPLATE_DEFAULT "secret-number"
enum { NEEDLE_TEMPLATE_VERSION = 1, NEEDLE_MIN_DIGITS = 3, NEEDLE_MAX_DIGITS = 15 };

/* A question and its answer, with placeholders to be filled. */
typedef struct needle_question {
    const char *question, *answer;
} needle_question;

typedef struct needle_words {
    int n;
    const char **at; /* distinct, none empty */
} needle_words;

/* Strings are owned by the template. */
typedef struct needle_template {
    const char *opening;                         /* first text of a document, such as a chat template's; may be empty */
    const char *statement;                       /* {key} {value} */
    needle_question ask;                         /* {key}; {value} */
    needle_question ask_values;                  /* all values of a key: {key}; {values} */
    needle_question ask_keys;                    /* the values of several keys: {keys}; {values} */
    const char *key_separator, *value_separator; /* between the entries of {keys}, of {values} */
    needle_words colours, things;                /* a key is "COLOUR THING" */
    int value_digits;                            /* values are whole numbers of that many digits, the first not 0 */
    struct cJSON *document;
} needle_template;

/* Names of the built-in templates, NULL after the last one. */
const char *needle_template_builtin(int i);

/* name_or_path: a built-in template ("completion", "plain", "secret-number") or a file ("./plain"). Fails with one
 * sentence on unknown or missing members and placeholders, and on words that are there twice. */
rb_status needle_template_open(needle_template *out, const char *name_or_path, rb_error *err);
void needle_template_free(needle_template *needles);

#endif
