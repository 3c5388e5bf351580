/* A pre-tokenizer from its object in tokenizer.json: see pretokenizer.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "model/tokenizer/pretokenizer_steps.h"
#include "model/tokenizer/unicode_text.h"

/* What ByteLevel splits by with use_regex. Source: `pat` in https://github.com/openai/gpt-2/blob/master/src/encoder.py
 */
static const char GPT2_PATTERN[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static rb_status add_step(pretokenizer *p, pretokenizer_step step, const char *where, rb_error *err)
{
    if (p->n_steps == PRETOKENIZER_MAX_STEPS) {
        text_pattern_release(&step.pattern);
        return rb_fail(err, RB_EUNSUPPORTED, "%s: more than %d steps", where, PRETOKENIZER_MAX_STEPS);
    }
    p->steps[p->n_steps++] = step;
    return RB_OK;
}

static rb_status optional_bool(const cJSON *object, const char *key, const char *where, bool *out, rb_error *err)
{
    return rb_json_find(object, key) ? rb_json_get_bool(object, key, where, out, err) : RB_OK;
}

/* ---- components ------------------------------------------------------------------------------ */

static rb_status read_behavior(split_behavior *out, const cJSON *object, const char *where, rb_error *err)
{
    static const char *const NAMES[] = {[SPLIT_REMOVED] = "Removed",
                                        [SPLIT_ISOLATED] = "Isolated",
                                        [SPLIT_MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
                                        [SPLIT_MERGED_WITH_NEXT] = "MergedWithNext",
                                        [SPLIT_CONTIGUOUS] = "Contiguous"};
    const char *name;
    const rb_status st = rb_json_get_string(object, "behavior", where, &name, err);
    if (st != RB_OK) return st;
    for (size_t i = 0; i < RB_COUNT(NAMES); i++)
        if (strcmp(name, NAMES[i]) == 0) {
            *out = (split_behavior)i;
            return RB_OK;
        }
    return rb_fail(err, RB_EUNSUPPORTED,
                   "%s.behavior: found %s, supported are Removed, Isolated, MergedWithPrevious, MergedWithNext and "
                   "Contiguous",
                   where, name);
}

static rb_status read_split(pretokenizer *p, const cJSON *object, const char *where, rb_error *err)
{
    pretokenizer_step step = {.kind = STEP_SPLIT};
    rb_status st;
    RB_TRY(st, read_behavior(&step.behavior, object, where, err), done);
    RB_TRY(st, rb_json_get_bool(object, "invert", where, &step.is_inverted, err), done);
    RB_TRY(st, text_pattern_read(&step.pattern, object, where, err), done);
    return add_step(p, step, where, err);
done:
    text_pattern_release(&step.pattern);
    return st;
}

static int numeric_class(int32_t c) { return unicode_is_numeric(c); }
static int punctuation_class(int32_t c) { return unicode_is_punctuation(c); }
static int space_class(int32_t c) { return unicode_is_space(c); }

/* \w+|[^\w\s]+ */
static int word_class(int32_t c)
{
    if (unicode_is_word(c)) return 1;
    return unicode_is_space(c) ? 0 : 2;
}

static rb_status add_class(pretokenizer *p, character_class_fn class_of, bool is_run, split_behavior behavior,
                           bool is_inverted, const char *where, rb_error *err)
{
    const pretokenizer_step step = {.kind = STEP_SPLIT,
                                    .pattern = {.class_of = class_of, .is_run = is_run},
                                    .behavior = behavior,
                                    .is_inverted = is_inverted};
    return add_step(p, step, where, err);
}

static rb_status read_digits(pretokenizer *p, const cJSON *object, const char *where, rb_error *err)
{
    bool is_individual;
    const rb_status st = rb_json_get_bool(object, "individual_digits", where, &is_individual, err);
    if (st != RB_OK) return st;
    return add_class(p, numeric_class, false, is_individual ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS, false, where, err);
}

static rb_status read_punctuation(pretokenizer *p, const cJSON *object, const char *where, rb_error *err)
{
    split_behavior behavior = SPLIT_ISOLATED; /* files older than the setting */
    if (rb_json_find(object, "behavior")) {
        const rb_status st = read_behavior(&behavior, object, where, err);
        if (st != RB_OK) return st;
    }
    return add_class(p, punctuation_class, false, behavior, false, where, err);
}

static rb_status read_whitespace(pretokenizer *p, const cJSON *object, const char *where, rb_error *err)
{
    (void)object;
    return add_class(p, word_class, true, SPLIT_REMOVED, true, where, err);
}

static rb_status read_whitespace_split(pretokenizer *p, const cJSON *object, const char *where, rb_error *err)
{
    (void)object;
    return add_class(p, space_class, false, SPLIT_REMOVED, false, where, err);
}

/* Files older than use_regex have it on. */
static rb_status read_byte_level(pretokenizer *p, const cJSON *object, const char *where, rb_error *err)
{
    bool add_prefix_space, use_regex = true;
    pretokenizer_step words = {.kind = STEP_SPLIT, .behavior = SPLIT_ISOLATED};
    rb_status st;
    RB_TRY(st, rb_json_get_bool(object, "add_prefix_space", where, &add_prefix_space, err), done);
    RB_TRY(st, optional_bool(object, "use_regex", where, &use_regex, err), done);
    if (add_prefix_space)
        RB_TRY(st, add_step(p, (pretokenizer_step){.kind = STEP_PREFIX, .sign = " "}, where, err), done);
    if (use_regex) {
        RB_TRY(st, split_pattern_compile(&words.pattern.regex, GPT2_PATTERN, where, err), done);
        RB_TRY(st, add_step(p, words, where, err), done);
    }
    st = add_step(p, (pretokenizer_step){.kind = STEP_BYTE_LEVEL}, where, err);
done:
    return st;
}

/* prepend_scheme, or add_prefix_space in older files, which must not contradict it. */
static rb_status read_prepend_scheme(const char **out, const cJSON *object, const char *where, rb_error *err)
{
    bool add_prefix_space = true;
    rb_status st;
    *out = "always";
    if (rb_json_find(object, "prepend_scheme"))
        RB_TRY(st, rb_json_get_string(object, "prepend_scheme", where, out, err), done);
    RB_TRY(st, optional_bool(object, "add_prefix_space", where, &add_prefix_space, err), done);
    if (strcmp(*out, "always") != 0 && strcmp(*out, "first") != 0 && strcmp(*out, "never") != 0)
        return rb_fail(err, RB_EUNSUPPORTED, "%s.prepend_scheme: found %s, supported are always, first and never",
                       where, *out);
    if (!add_prefix_space && rb_json_find(object, "prepend_scheme") && strcmp(*out, "never") != 0)
        return rb_fail(err, RB_EFORMAT, "%s: add_prefix_space is false, but prepend_scheme is %s", where, *out);
    if (!add_prefix_space) *out = "never";
done:
    return st;
}

static rb_status read_sign(pretokenizer_step *step, const cJSON *object, const char *where, rb_error *err)
{
    const char *sign;
    size_t size = 0;
    const rb_status st = rb_json_get_string(object, "replacement", where, &sign, err);
    if (st != RB_OK) return st;
    const size_t length = strlen(sign);
    if (length > 0 && utf8_valid_prefix(sign, length) == length) utf8_first(sign, length, &size);
    if (size == 0 || size != length)
        return rb_fail(err, RB_EFORMAT, "%s.replacement: found \"%.16s\", expected one character", where, sign);
    memcpy(step->sign, sign, length + 1);
    return RB_OK;
}

static rb_status read_metaspace(pretokenizer *p, const cJSON *object, const char *where, rb_error *err)
{
    pretokenizer_step step = {.kind = STEP_SIGN_SPACES};
    const char *scheme;
    bool is_split = true;
    rb_status st;
    RB_TRY(st, read_sign(&step, object, where, err), done);
    RB_TRY(st, read_prepend_scheme(&scheme, object, where, err), done);
    RB_TRY(st, optional_bool(object, "split", where, &is_split, err), done);
    RB_TRY(st, add_step(p, step, where, err), done);
    step.kind = STEP_PREFIX;
    step.is_for_first_only = strcmp(scheme, "first") == 0;
    if (strcmp(scheme, "never") != 0) RB_TRY(st, add_step(p, step, where, err), done);
    if (is_split) {
        pretokenizer_step words = {.kind = STEP_SPLIT, .behavior = SPLIT_MERGED_WITH_NEXT};
        RB_TRY(st, rb_format(&words.pattern.string, err, "%s", step.sign), done);
        st = add_step(p, words, where, err);
    }
done:
    return st;
}

/* ---- the tree -------------------------------------------------------------------------------- */

static rb_status read_component(pretokenizer *p, const cJSON *object, const char *where, int depth, rb_error *err);

static rb_status read_sequence(pretokenizer *p, const cJSON *object, const char *where, int depth, rb_error *err)
{
    enum { MAX_DEPTH = 8, PLACE = 160 };
    const cJSON *steps, *step;
    int index = 0;
    rb_status st;
    if (depth == MAX_DEPTH) return rb_fail(err, RB_EUNSUPPORTED, "%s: Sequences more than %d deep", where, MAX_DEPTH);
    RB_TRY(st, rb_json_get_array(object, "pretokenizers", where, &steps, err), done);
    cJSON_ArrayForEach (step, steps) {
        char place[PLACE];
        snprintf(place, sizeof place, "%.120s.pretokenizers[%d]", where, index++);
        RB_TRY(st, read_component(p, step, place, depth + 1, err), done);
    }
done:
    return st;
}

static rb_status read_component(pretokenizer *p, const cJSON *object, const char *where, int depth, rb_error *err)
{
    static const struct {
        const char *type;
        rb_status (*read)(pretokenizer *p, const cJSON *object, const char *where, rb_error *err);
    } COMPONENTS[] = {{"Split", read_split},
                      {"Digits", read_digits},
                      {"Punctuation", read_punctuation},
                      {"Whitespace", read_whitespace},
                      {"WhitespaceSplit", read_whitespace_split},
                      {"Metaspace", read_metaspace},
                      {"ByteLevel", read_byte_level}};
    const char *type;
    const rb_status st = rb_json_get_string(object, "type", where, &type, err);
    if (st != RB_OK) return st;
    if (strcmp(type, "Sequence") == 0) return read_sequence(p, object, where, depth, err);
    for (size_t i = 0; i < RB_COUNT(COMPONENTS); i++)
        if (strcmp(type, COMPONENTS[i].type) == 0) return COMPONENTS[i].read(p, object, where, err);
    return rb_fail(err, RB_EUNSUPPORTED,
                   "%s: found %s, supported are Split, Digits, Punctuation, Whitespace, WhitespaceSplit, Metaspace, "
                   "ByteLevel and Sequence",
                   where, type);
}

rb_status pretokenizer_open(pretokenizer **out, const cJSON *component, rb_error *err)
{
    pretokenizer *p = NULL;
    rb_status st;

    *out = NULL;
    RB_TRY(st, rb_alloc(&p, 1, sizeof *p, "pre-tokenizer", err), done);
    if (component) RB_TRY(st, read_component(p, component, "pre_tokenizer", 0, err), done);
    *out = p;
    p = NULL;
done:
    pretokenizer_close(p);
    return st;
}

void pretokenizer_close(pretokenizer *p)
{
    if (!p) return;
    for (int i = 0; i < p->n_steps; i++) text_pattern_release(&p->steps[i].pattern);
    free(p);
}

bool pretokenizer_is_byte_level(const pretokenizer *p)
{
    for (int i = 0; i < p->n_steps; i++)
        if (p->steps[i].kind == STEP_BYTE_LEVEL) return true;
    return false;
}

const char *pretokenizer_space_sign(const pretokenizer *p)
{
    for (int i = 0; i < p->n_steps; i++)
        if (p->steps[i].kind == STEP_SIGN_SPACES) return p->steps[i].sign;
    return NULL;
}
