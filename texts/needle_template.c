/* Reader of needle templates: see texts/needle_template.h. */
#include "texts/needle_template.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/json.h"

/* configs/needles/NAME.json as C strings, made by the Makefile. */
static const struct builtin {
    const char *name, *text;
} builtins[] = {
#include "needle_templates.h"
};

/* ---- texts with placeholders ----------------------------------------------------------------- */

enum { MAX_PLACEHOLDERS = 2 };

/* The text must have every placeholder exactly once, and no other braces: a misspelt placeholder would go into the
 * document as it is. */
static rb_status check_placeholders(const char *text, const char *const placeholders[MAX_PLACEHOLDERS],
                                    const char *where, rb_error *err)
{
    for (int i = 0; i < MAX_PLACEHOLDERS && placeholders[i]; i++) {
        const char *found = strstr(text, placeholders[i]);
        if (!found) return rb_fail(err, RB_EFORMAT, "%s: has no %s, expected it once", where, placeholders[i]);
        if (strstr(found + 1, placeholders[i]))
            return rb_fail(err, RB_EFORMAT, "%s: has %s more than once, expected it once", where, placeholders[i]);
    }
    for (const char *at = strpbrk(text, "{}"); at; at = strpbrk(at + 1, "{}")) {
        const char *known = NULL;
        for (int i = 0; i < MAX_PLACEHOLDERS && placeholders[i] && !known; i++)
            if (strncmp(at, placeholders[i], strlen(placeholders[i])) == 0) known = placeholders[i];
        if (!known) {
            const int length = (int)strcspn(at, "}") + 1;
            return rb_fail(err, RB_EFORMAT, "%s: has \"%.*s\", expected no placeholder but %s%s%s", where,
                           length < 32 ? length : 32, at, placeholders[0], placeholders[1] ? " and " : "",
                           placeholders[1] ? placeholders[1] : "");
        }
        at += strlen(known) - 1;
    }
    return RB_OK;
}

static rb_status read_form(const char **out, const cJSON *object, const char *key, const char *where,
                           const char *const placeholders[MAX_PLACEHOLDERS], rb_error *err)
{
    char *place = NULL;
    rb_status st;
    RB_TRY(st, rb_json_get_string(object, key, where, out, err), done);
    RB_TRY(st, rb_format(&place, err, "%s: %s", where, key), done);
    st = check_placeholders(*out, placeholders, place, err);
done:
    free(place);
    return st;
}

/* key: "ask". asked, answered: its placeholders. */
static rb_status read_question(needle_question *out, const cJSON *document, const char *key, const char *where,
                               const char *asked, const char *answered, rb_error *err)
{
    static const char *const known[] = {"question", "answer", NULL};
    const cJSON *forms;
    char *place = NULL;
    rb_status st;
    RB_TRY(st, rb_json_get_object(document, key, where, &forms, err), done);
    RB_TRY(st, rb_format(&place, err, "%s: %s", where, key), done);
    RB_TRY(st, rb_json_check_members(forms, place, known, err), done);
    RB_TRY(st, read_form(&out->question, forms, "question", place, (const char *const[MAX_PLACEHOLDERS]){asked}, err),
           done);
    st = read_form(&out->answer, forms, "answer", place, (const char *const[MAX_PLACEHOLDERS]){answered}, err);
done:
    free(place);
    return st;
}

/* ---- words ----------------------------------------------------------------------------------- */

enum { MAX_WORDS = 10000 }; /* each is held to all others */

static rb_status read_words(needle_words *out, const cJSON *document, const char *key, const char *where, rb_error *err)
{
    const cJSON *list, *item;
    rb_status st = rb_json_get_array(document, key, where, &list, err);
    if (st != RB_OK) return st;
    const int n = cJSON_GetArraySize(list);
    if (n == 0) return rb_fail(err, RB_EFORMAT, "%s: %s is an empty list, expected words", where, key);
    if (n > MAX_WORDS)
        return rb_fail(err, RB_EFORMAT, "%s: %s has %d words, expected at most %d", where, key, n, MAX_WORDS);
    st = rb_alloc(&out->at, (size_t)n, sizeof *out->at, "the words of keys", err);
    if (st != RB_OK) return st;
    cJSON_ArrayForEach (item, list) {
        if (!cJSON_IsString(item) || item->valuestring[0] == '\0')
            return rb_fail(err, RB_EFORMAT, "%s: %s[%d] is no word, expected a string that is not empty", where, key,
                           out->n);
        for (int i = 0; i < out->n; i++)
            if (strcmp(out->at[i], item->valuestring) == 0)
                return rb_fail(err, RB_EFORMAT, "%s: %s has \"%s\" twice, expected every word once", where, key,
                               item->valuestring);
        out->at[out->n++] = item->valuestring;
    }
    return RB_OK;
}

/* ---- templates ------------------------------------------------------------------------------- */

static rb_status read_document(needle_template *out, const cJSON *document, const char *name, rb_error *err)
{
    static const char *const known[] = {
        "schema",        "version",         "opening", "statement", "ask",          "ask_values", "ask_keys",
        "key_separator", "value_separator", "colours", "things",    "value_digits", NULL};
    int64_t digits;
    rb_status st;
    RB_TRY(st, rb_json_check_schema(document, name, NEEDLE_TEMPLATE_SCHEMA, NEEDLE_TEMPLATE_VERSION, err), done);
    RB_TRY(st, rb_json_check_members(document, name, known, err), done);
    out->opening = "";
    if (rb_json_find(document, "opening"))
        RB_TRY(st, rb_json_get_string(document, "opening", name, &out->opening, err), done);
    RB_TRY(st,
           read_form(&out->statement, document, "statement", name,
                     (const char *const[MAX_PLACEHOLDERS]){"{key}", "{value}"}, err),
           done);
    RB_TRY(st, read_question(&out->ask, document, "ask", name, "{key}", "{value}", err), done);
    RB_TRY(st, read_question(&out->ask_values, document, "ask_values", name, "{key}", "{values}", err), done);
    RB_TRY(st, read_question(&out->ask_keys, document, "ask_keys", name, "{keys}", "{values}", err), done);
    RB_TRY(st, rb_json_get_string(document, "key_separator", name, &out->key_separator, err), done);
    RB_TRY(st, rb_json_get_string(document, "value_separator", name, &out->value_separator, err), done);
    if (out->value_separator[0] == '\0') {
        st = rb_fail(err, RB_EFORMAT, "%s: value_separator is empty, expected a text that keeps numbers apart", name);
        goto done;
    }
    RB_TRY(st, read_words(&out->colours, document, "colours", name, err), done);
    RB_TRY(st, read_words(&out->things, document, "things", name, err), done);
    RB_TRY(st, rb_json_get_int(document, "value_digits", name, NEEDLE_MIN_DIGITS, NEEDLE_MAX_DIGITS, &digits, err),
           done);
    out->value_digits = (int)digits;
done:
    return st;
}

const char *needle_template_builtin(int i) { return i < (int)RB_COUNT(builtins) ? builtins[i].name : NULL; }

static const struct builtin *find_builtin(const char *name)
{
    for (size_t i = 0; i < RB_COUNT(builtins); i++)
        if (strcmp(builtins[i].name, name) == 0) return &builtins[i];
    return NULL;
}

static rb_status fail_unknown(const char *name, rb_error *err)
{
    char names[256] = "";
    size_t used = 0;
    for (size_t i = 0; i < RB_COUNT(builtins) && used < sizeof names; i++)
        used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", i ? ", " : "", builtins[i].name);
    return rb_fail(err, RB_EINVAL, "needle template is '%s', expected a file or one of %s", name, names);
}

rb_status needle_template_open(needle_template *out, const char *name_or_path, rb_error *err)
{
    const struct builtin *builtin = find_builtin(name_or_path);
    rb_status st;
    *out = (needle_template){0};
    if (!builtin && access(name_or_path, F_OK) != 0) return fail_unknown(name_or_path, err);
    if (builtin) st = rb_json_parse(&out->document, builtin->text, strlen(builtin->text), name_or_path, err);
    else st = rb_json_read(&out->document, name_or_path, 0, err);
    if (st == RB_OK) st = read_document(out, out->document, name_or_path, err);
    if (st != RB_OK) needle_template_free(out);
    return st;
}

void needle_template_free(needle_template *needles)
{
    free(needles->colours.at);
    free(needles->things.at);
    cJSON_Delete(needles->document);
    *needles = (needle_template){0};
}
