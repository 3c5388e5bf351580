/* Texts to token ids: see calibrate/calibration_text.h. */
#include "calibrate/calibration_text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/atomic_file.h"
#include "core/weighted_path.h"
#include "model/model_tokenizer.h"
#include "texts/needle_documents.h"
#include "texts/sequences.h"

void calibration_text_free(calibration_text *text)
{
    for (int i = 0; i < text->n_parts; i++) free(text->parts[i].path);
    free(text->parts);
    token_list_free(&text->tokens);
    *text = (calibration_text){0};
}

/* ---- shares ---------------------------------------------------------------------------------- */

/* The text that is furthest below its share; the first one of equals. */
static int furthest_below(const int64_t *shares, const double *quota, int n_texts)
{
    int found = 0;
    for (int i = 1; i < n_texts; i++)
        if (quota[i] - (double)shares[i] > quota[found] - (double)shares[found]) found = i;
    return found;
}

/* The text that is furthest above its share and has a sequence to give away; the last one of equals. */
static int furthest_above(const int64_t *shares, const double *quota, int n_texts)
{
    int found = -1;
    for (int i = 0; i < n_texts; i++)
        if (shares[i] > 1 && (found < 0 || (double)shares[i] - quota[i] >= (double)shares[found] - quota[found]))
            found = i;
    return found;
}

void calibration_shares(int64_t *shares, const double *weights, int n_texts, int64_t n_sequences)
{
    double quota[RB_MAX_LIST], sum = 0.0;
    int64_t given = 0;
    for (int i = 0; i < n_texts; i++) sum += weights[i];
    for (int i = 0; i < n_texts; i++) {
        quota[i] = (double)n_sequences * weights[i] / sum;
        shares[i] = quota[i] < 1.0 ? 1 : (int64_t)floor(quota[i]);
        given += shares[i];
    }
    for (; given < n_sequences; given++) shares[furthest_below(shares, quota, n_texts)]++;
    for (; given > n_sequences; given--) shares[furthest_above(shares, quota, n_texts)]--;
}

/* ---- plain text ------------------------------------------------------------------------------ */

/* What the ids are made with, and the texts' own ids, without what begins them. */
typedef struct text_loader {
    const calibrate_options *options;
    tokenizer *tok; /* owned; NULL: not needed, or ids and a model without tokenizer */
    int64_t context, vocab_size;
    token_list plain[CAPTURE_N_SETS]; /* owned; n grows with the texts, up to what was asked for */
} text_loader;

static void loader_free(text_loader *loader)
{
    tokenizer_close(loader->tok);
    for (int set = 0; set < CAPTURE_N_SETS; set++) token_list_free(&loader->plain[set]);
}

/* A set's ids come from a file of ids. Without a test text they are those of the calibration text's source. */
static bool is_from_ids(const calibrate_options *opt, capture_set set)
{
    if (set == CAPTURE_TEST && (opt->test_text || opt->test_tokens)) return opt->test_tokens != NULL;
    return opt->tokens != NULL;
}

static rb_status open_tokenizer(text_loader *loader, rb_error *err)
{
    const calibrate_options *opt = loader->options;
    const bool is_needed = opt->with_needles || opt->texts.n > 0 || opt->test_text;
    if (!is_needed && (opt->bos == BOS_CHOICE_AUTO || opt->bos == BOS_CHOICE_NONE || !tokenizer_is_there(opt->model)))
        return RB_OK;
    return tokenizer_open_model(&loader->tok, opt->model, err);
}

static rb_status choose_bos(calibration_text *out, const text_loader *loader, rb_error *err)
{
    const calibrate_options *opt = loader->options;
    rb_status st = RB_OK;
    for (int set = 0; set < CAPTURE_N_SETS && st == RB_OK; set++)
        st = sequences_choose_bos(&out->bos[set], (bos_choice)opt->bos, is_from_ids(opt, (capture_set)set), opt->model,
                                  loader->tok, loader->context, loader->vocab_size, err);
    return st;
}

/* Ids of a text, or, where that is NULL, of a file of ids: n_wanted at least. */
static rb_status load_tokens(token_list *out, const text_loader *loader, const char *text, const char *tokens,
                             int64_t n_wanted, rb_error *err)
{
    rb_status st = text ? tokens_from_text(out, text, loader->tok, n_wanted, err) : tokens_from_file(out, tokens, err);
    if (st == RB_OK && out->n < n_wanted)
        st = rb_fail(err, RB_EINVAL, "%s: gives %lld tokens, expected at least %lld", text ? text : tokens,
                     (long long)out->n, (long long)n_wanted);
    if (st == RB_OK) st = tokens_check(out->ids, n_wanted, loader->vocab_size, text ? text : tokens, err);
    return st;
}

static void append(token_list *list, const int32_t *ids, int64_t n)
{
    memcpy(list->ids + list->n, ids, (size_t)n * sizeof *ids);
    list->n += n;
}

/* Names, weights and numbers of tokens of the texts. */
static rb_status share_out(calibration_text *out, const calibrate_options *opt, int64_t context, rb_error *err)
{
    const int n_texts = opt->texts.n;
    const int64_t n_sequences = (opt->n_tokens + context - 1) / context;
    int64_t shares[RB_MAX_LIST];
    double weights[RB_MAX_LIST];
    if (n_sequences < n_texts)
        return rb_fail(
            err, RB_EINVAL,
            "%lld calibration tokens are %lld sequences of %lld, expected at least one for each of the %d texts",
            (long long)opt->n_tokens, (long long)n_sequences, (long long)context, n_texts);
    rb_status st = rb_alloc(&out->parts, (size_t)n_texts, sizeof *out->parts, "calibration texts", err);
    for (int i = 0; i < n_texts && st == RB_OK; i++) {
        weighted_path text;
        st = rb_weighted_path(&text, opt->texts.at[i], err);
        if (st != RB_OK) return st;
        out->parts[out->n_parts++] = (text_part){.path = text.path, .weight = text.weight};
        weights[i] = text.weight;
    }
    if (st != RB_OK) return st;
    calibration_shares(shares, weights, n_texts, n_sequences);
    for (int i = 0; i < n_texts; i++) out->parts[i].n_tokens = shares[i] * context;
    out->parts[n_texts - 1].n_tokens -= n_sequences * context - opt->n_tokens; /* the last sequence may be shorter */
    return RB_OK;
}

/* Loads a calibration text for its n_tokens ids, and n_after further ids of it for the test set. */
static rb_status load_part(calibration_text *out, text_loader *loader, const char *text, int64_t n_tokens,
                           int64_t n_after, rb_error *err)
{
    const int64_t n = sequences_text_tokens(&out->bos[CAPTURE_CALIBRATION], n_tokens, loader->context);
    token_list *const plain = &loader->plain[CAPTURE_CALIBRATION];
    int32_t *const ids = out->tokens.ids + out->n_laid;
    token_list loaded = {0};
    rb_status st;
    RB_TRY(st, load_tokens(&loaded, loader, text, loader->options->tokens, n + n_after, err), done);
    append(plain, loaded.ids, n);
    append(&loader->plain[CAPTURE_TEST], loaded.ids + n, n_after);
    sequences_fill(ids, n_tokens, loader->context, &out->bos[CAPTURE_CALIBRATION], loaded.ids);
    out->n_laid += n_tokens;
done:
    token_list_free(&loaded);
    return st;
}

/* n_after: ids that follow the last calibration text's, for the test set. */
static rb_status load_calibration(calibration_text *out, text_loader *loader, int64_t n_after, rb_error *err)
{
    rb_status st = RB_OK;
    if (loader->options->tokens) return load_part(out, loader, NULL, loader->options->n_tokens, n_after, err);
    for (int i = 0; i < out->n_parts && st == RB_OK; i++)
        st = load_part(out, loader, out->parts[i].path, out->parts[i].n_tokens, i + 1 == out->n_parts ? n_after : 0,
                       err);
    return st;
}

static rb_status load_test(text_loader *loader, int64_t n, rb_error *err)
{
    token_list loaded = {0};
    const rb_status st = load_tokens(&loaded, loader, loader->options->test_text, loader->options->test_tokens, n, err);
    if (st == RB_OK) append(&loader->plain[CAPTURE_TEST], loaded.ids, n);
    token_list_free(&loaded);
    return st;
}

/* Lays both sets into out->tokens.ids. */
static rb_status load_sets(calibration_text *out, text_loader *loader, int64_t n_test, rb_error *err)
{
    const calibrate_options *opt = loader->options;
    token_list *const plain = loader->plain;
    const int64_t n_plain_test = sequences_text_tokens(&out->bos[CAPTURE_TEST], n_test, loader->context);
    const bool test_has_its_own = opt->test_text || opt->test_tokens;
    rb_status st;
    for (int set = 0; set < CAPTURE_N_SETS; set++)
        RB_TRY(st,
               rb_alloc(&plain[set].ids, (size_t)(set == CAPTURE_TEST ? n_plain_test : opt->n_tokens),
                        sizeof *plain->ids, "tokens", err),
               done);
    RB_TRY(st, load_calibration(out, loader, test_has_its_own ? 0 : n_plain_test, err), done);
    if (test_has_its_own) RB_TRY(st, load_test(loader, n_plain_test, err), done);
    sequences_fill(out->tokens.ids + opt->n_tokens, n_test, loader->context, &out->bos[CAPTURE_TEST],
                   plain[CAPTURE_TEST].ids);
    st = tokens_check_disjoint(plain[CAPTURE_CALIBRATION].ids, plain[CAPTURE_CALIBRATION].n, plain[CAPTURE_TEST].ids,
                               plain[CAPTURE_TEST].n, err);
done:
    return st;
}

/* ---- needles --------------------------------------------------------------------------------- */

/* multikey comes first, for runs of few sequences. */
static const needle_task tasks_in_turn[] = {NEEDLE_MULTIKEY,   NEEDLE_MULTIVALUE, NEEDLE_MULTIQUERY,
                                            NEEDLE_DISTRACTOR, NEEDLE_MULTI,      NEEDLE_SINGLE};

enum { NEEDLE_SEED = 20260624 }; /* any number would do; the hash of a capture's ids says what it held */

/* Turns the sequence of ids [n] into a needle document that has the sequence as haystack. What begins it stays. */
static rb_status plant_needles(int32_t *ids, int64_t n, const needle_template *needles, const tokenizer *tok,
                               int64_t number, rb_error *err)
{
    const needle_source source = {.needles = needles, .tokens_of = tok, .haystack = ids, .n_haystack = n};
    const needle_counts counts = needle_counts_default();
    needle_document document;
    const rb_status st =
        needle_document_make(&document, &source, &counts, tasks_in_turn[number % (int64_t)RB_COUNT(tasks_in_turn)], n,
                             (double)NAN, (uint64_t)(NEEDLE_SEED + number), err);
    if (st != RB_OK) return rb_fail_in(err, st, "--with-needles");
    memcpy(ids, document.tokens, (size_t)n * sizeof *ids);
    needle_document_free(&document);
    return RB_OK;
}

/* Whether one of the texts begins at calibration token `at`. */
static bool begins_text(const calibration_text *text, int64_t at)
{
    int64_t start = 0;
    for (int i = 0; i < text->n_parts && start < at; i++) start += text->parts[i].n_tokens;
    return start == at;
}

static rb_status add_needles(calibration_text *text, const text_loader *loader, rb_error *err)
{
    const calibrate_options *opt = loader->options;
    const int64_t context = loader->context, n_whole = opt->n_tokens / context,
                  n_candidates = n_whole > 0 ? n_whole : 1, length = n_whole > 0 ? context : opt->n_tokens;
    const int64_t n_sequences = (opt->n_tokens + context - 1) / context;
    int64_t n_needles = llround(opt->needle_share * (double)n_sequences);
    needle_template needles = {0};
    rb_status st;
    n_needles = n_needles < 1 ? 1 : n_needles > n_candidates ? n_candidates : n_needles;
    RB_TRY(st, needle_template_open(&needles, opt->needle_template, err), done);
    for (int64_t sequence = 0; sequence < n_candidates; sequence++) {
        if (sequence * n_needles % n_candidates >= n_needles) continue; /* true for n_needles of them, evenly */
        const int64_t at = sequence * context,
                      n_bos = sequences_n_bos(&text->bos[CAPTURE_CALIBRATION], begins_text(text, at), length);
        RB_TRY(
            st,
            plant_needles(text->tokens.ids + at + n_bos, length - n_bos, &needles, loader->tok, text->n_needles, err),
            done);
        text->n_needles++;
    }
    st = tokens_check(text->tokens.ids, opt->n_tokens, loader->vocab_size, "calibration text with needles", err);
done:
    needle_template_free(&needles);
    return st;
}

/* ---- all of it ------------------------------------------------------------------------------- */

rb_status calibration_text_load(calibration_text *out, const calibrate_options *opt, int64_t n_test, int64_t context,
                                int64_t vocab_size, rb_error *err)
{
    text_loader loader = {.options = opt, .context = context, .vocab_size = vocab_size};
    rb_status st;

    *out = (calibration_text){0};
    RB_TRY(st, rb_alloc(&out->tokens.ids, (size_t)(opt->n_tokens + n_test), sizeof *out->tokens.ids, "tokens", err),
           done);
    out->tokens.n = opt->n_tokens + n_test;
    if (opt->texts.n > 0) RB_TRY(st, share_out(out, opt, context, err), done);
    RB_TRY(st, open_tokenizer(&loader, err), done);
    RB_TRY(st, choose_bos(out, &loader, err), done);
    RB_TRY(st, load_sets(out, &loader, n_test, err), done);
    if (opt->with_needles) st = add_needles(out, &loader, err);
done:
    loader_free(&loader);
    return st;
}

/* ---- what is recorded and told --------------------------------------------------------------- */

static rb_status part_to_json(cJSON **out, const text_part *part, rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_json_new_object(out, err), done);
    RB_TRY(st, rb_json_add_string(*out, "path", part->path, err), done);
    RB_TRY(st, rb_json_add_number(*out, "weight", part->weight, err), done);
    RB_TRY(st, rb_json_add_number(*out, "n_tokens", (double)part->n_tokens, err), done);
done:
    return st;
}

static rb_status needles_to_json(cJSON **out, const calibration_text *text, const calibrate_options *opt, rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_json_new_object(out, err), done);
    RB_TRY(st, rb_json_add_string(*out, "template", opt->needle_template, err), done);
    RB_TRY(st, rb_json_add_number(*out, "share", opt->needle_share, err), done);
    RB_TRY(st, rb_json_add_number(*out, "n_sequences", (double)text->n_needles, err), done);
done:
    return st;
}

rb_status calibration_text_to_json(cJSON *object, const calibration_text *text, const calibrate_options *opt,
                                   rb_error *err)
{
    cJSON *list = NULL, *item = NULL;
    rb_status st = RB_OK;
    if (text->n_parts > 0) {
        list = cJSON_CreateArray();
        if (!list) return rb_fail(err, RB_ENOMEM, "out of memory for the list of texts");
        for (int i = 0; i < text->n_parts; i++) {
            RB_TRY(st, part_to_json(&item, &text->parts[i], err), done);
            RB_TRY(st, rb_json_append(list, &item, err), done);
        }
        RB_TRY(st, rb_json_add_item(object, "texts", &list, err), done);
    }
    if (text->n_needles > 0) {
        RB_TRY(st, needles_to_json(&item, text, opt, err), done);
        RB_TRY(st, rb_json_add_item(object, "needles", &item, err), done);
    }
    st = shard_to_json(object, &text->part, err);
done:
    cJSON_Delete(list);
    cJSON_Delete(item);
    return st;
}

void calibration_text_print(const calibration_text *text, int64_t n_tokens, int64_t context)
{
    for (int i = 0; i < text->n_parts && text->n_parts > 1; i++)
        printf("%-12s %s: %lld tokens, weight %g\n", i ? "" : "texts", rb_shown(text->parts[i].path).text,
               (long long)text->parts[i].n_tokens, text->parts[i].weight);
    if (text->n_needles > 0)
        printf("needles      in %lld of %lld calibration sequences\n", (long long)text->n_needles,
               (long long)((n_tokens + context - 1) / context));
    if (shard_is_part(&text->part))
        printf("shard        %lld/%lld, of %lld calibration tokens\n", (long long)text->part.index,
               (long long)text->part.count, (long long)n_tokens);
}
