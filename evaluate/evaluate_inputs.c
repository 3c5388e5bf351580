/* See evaluate_inputs.h. */
#include "evaluate/evaluate_inputs.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/atomic_file.h"
#include "core/message.h"
#include "model/model_tokenizer.h"
#include "model/weights_identity.h"
#include "plan/plan_read.h"
#include "texts/documents_file.h"
#include "texts/sequences.h"
#include "texts/understanding_documents.h"

/* As much of a text as documents are made of. */
enum { HAYSTACK_TOKENS = 1 << 17, PIECES_BYTES = 1 << 19 };

void evaluate_inputs_free(evaluate_inputs *in)
{
    for (int i = 0; i < RB_MAX_LIST; i++) bit_plan_free(in->plans[i]);
    token_list_free(&in->text);
    tokenizer_close(in->words);
    needle_documents_free(&in->documents);
    checkpoint_close(in->model);
}

/* ---- text ------------------------------------------------------------------------------------ */

static rb_status resolve_sequences(evaluate_inputs *in, const evaluate_options *opt, rb_error *err)
{
    const model_config *config = checkpoint_config(in->model);
    text_facts *facts = &in->facts;
    rb_status st;
    RB_TRY(st, tokens_resolve_context(&facts->context, opt->context, model_config_max_context(config), err), done);
    if (facts->context < 2) {
        st = rb_fail(err, RB_EINVAL,
                     "--context is %lld, expected at least 2: the first token of a sequence is predicted by nothing",
                     (long long)facts->context);
        goto done;
    }
    st = sequences_choose_bos(&facts->bos, (bos_choice)opt->bos, false, opt->model, in->words, facts->context,
                              config->vocab_size, err);
    /* --context, as --n-tokens, counts the text's own tokens: what is put in front comes on top. */
    if (st == RB_OK && opt->context > 0 && facts->context + facts->bos.tokens.n <= model_config_max_context(config))
        facts->context += facts->bos.tokens.n;
done:
    return st;
}

/* Lays the text's tokens out in sequences. */
static rb_status lay_text(evaluate_inputs *in, const token_list *plain, rb_error *err)
{
    text_facts *facts = &in->facts;
    facts->n_tokens = in->text.n = sequences_tokens_of(&facts->bos, plain->n, facts->context);
    const rb_status st = rb_alloc(&in->text.ids, (size_t)in->text.n, sizeof *in->text.ids, "text", err);
    if (st != RB_OK) return st;
    sequences_fill(in->text.ids, in->text.n, facts->context, &facts->bos, plain->ids);
    return rb_sha256_bytes(facts->tokens_sha256, in->text.ids, (size_t)in->text.n * sizeof *in->text.ids, err);
}

static rb_status read_text(evaluate_inputs *in, const evaluate_options *opt, rb_error *err)
{
    token_list plain = {0};
    rb_status st;
    RB_TRY(st, resolve_sequences(in, opt, err), done);
    RB_TRY(st, tokens_from_text(&plain, opt->text, in->words, opt->n_tokens, err), done);
    if (plain.n < 2) {
        st = rb_fail(err, RB_EINVAL, "%s: gives %lld tokens, expected at least 2", opt->text, (long long)plain.n);
        goto done;
    }
    if (plain.n > opt->n_tokens) plain.n = opt->n_tokens;
    RB_TRY(st, tokens_check(plain.ids, plain.n, checkpoint_config(in->model)->vocab_size, opt->text, err), done);
    st = lay_text(in, &plain, err);
done:
    token_list_free(&plain);
    return st;
}

/* ---- documents ------------------------------------------------------------------------------- */

/* Tokens of a document, without what begins it: each document is a text and begins like one. */
static rb_status list_contexts(int64_t *contexts, int *n, const evaluate_inputs *in, const rb_number_list *asked,
                               const char *option, rb_error *err)
{
    const int64_t longest = model_config_max_context(checkpoint_config(in->model));
    *n = 0;
    for (int i = 0; i < asked->n; i++) contexts[(*n)++] = (int64_t)asked->at[i];
    if (*n == 0) contexts[(*n)++] = in->facts.context;
    for (int i = 0; i < *n; i++) {
        if (contexts[i] > longest)
            return rb_fail(err, RB_EINVAL, "%s has %lld, expected at most the model's max_position_embeddings of %lld",
                           option, (long long)contexts[i], (long long)longest);
        contexts[i] -= in->facts.bos.tokens.n;
        if (contexts[i] < 1)
            return rb_fail(err, RB_EINVAL, "%s has %lld, expected more than the %d tokens that begin a text", option,
                           (long long)(contexts[i] + in->facts.bos.tokens.n), in->facts.bos.tokens.n);
    }
    return RB_OK;
}

/* Places of the asked names among all names. */
static int list_tasks(int *tasks, const rb_string_list *asked, const char *const *names)
{
    int n = 0;
    for (int i = 0; i < asked->n; i++)
        for (int task = 0; names[task]; task++)
            if (strcmp(asked->at[i], names[task]) == 0) tasks[n++] = task;
    return n;
}

rb_status evaluate_inputs_make_needles(needle_documents *out, const evaluate_inputs *in, const evaluate_options *opt,
                                       const char *template_name, int64_t n_repeats, rb_error *err)
{
    int tasks[RB_MAX_LIST];
    needle_task needle_tasks[RB_MAX_LIST];
    int64_t contexts[RB_MAX_LIST];
    double random_depth = NAN;
    needle_template words = {0};
    token_list haystack = {0};
    needle_series series = {.tasks = needle_tasks,
                            .contexts = contexts,
                            .depths = opt->depths.n > 0 ? opt->depths.at : &random_depth,
                            .n_depths = opt->depths.n > 0 ? opt->depths.n : 1,
                            .n_repeats = (int)n_repeats,
                            .seed = (uint64_t)opt->seed,
                            .counts = needle_counts_default()};
    rb_status st;
    series.n_tasks = list_tasks(tasks, &opt->needle_tasks, needle_task_names);
    for (int i = 0; i < series.n_tasks; i++) needle_tasks[i] = (needle_task)tasks[i];
    RB_TRY(st, list_contexts(contexts, &series.n_contexts, in, &opt->needle_contexts, "--needle-contexts", err), done);
    RB_TRY(st, needle_template_open(&words, template_name, err), done);
    RB_TRY(st, tokens_from_text(&haystack, opt->haystack ? opt->haystack : opt->text, in->words, HAYSTACK_TOKENS, err),
           done);
    const needle_source source = {
        .needles = &words, .tokens_of = in->words, .haystack = haystack.ids, .n_haystack = haystack.n};
    RB_TRY(st, needle_documents_make(out, &source, &series, err), done);
    st = needle_documents_begin(out, &in->facts.bos.tokens, err);
done:
    needle_template_free(&words);
    token_list_free(&haystack);
    return st;
}

static rb_status make_understanding(needle_documents *out, const evaluate_inputs *in, const evaluate_options *opt,
                                    rb_error *err)
{
    const char *path = opt->haystack ? opt->haystack : opt->text;
    int tasks[RB_MAX_LIST];
    understanding_task understanding_tasks[RB_MAX_LIST];
    int64_t contexts[RB_MAX_LIST];
    understanding_series series = {.tasks = understanding_tasks,
                                   .contexts = contexts,
                                   .n_repeats = (int)opt->n_understanding,
                                   .seed = (uint64_t)opt->seed};
    text_pieces pieces = {0};
    char *text = NULL;
    size_t length = 0;
    rb_status st;
    series.n_tasks = list_tasks(tasks, &opt->understanding_tasks, understanding_task_names);
    for (int i = 0; i < series.n_tasks; i++) understanding_tasks[i] = (understanding_task)tasks[i];
    RB_TRY(
        st,
        list_contexts(contexts, &series.n_contexts, in, &opt->understanding_contexts, "--understanding-contexts", err),
        done);
    RB_TRY(st, rb_read_file(&text, &length, path, 1 << 30, err), done);
    if (length > PIECES_BYTES) /* whole lines of it */
        for (length = PIECES_BYTES; length > 0 && text[length - 1] != '\n';) length--;
    RB_TRY(st, text_pieces_make(&pieces, text, length, in->words, err), done);
    const understanding_source source = {.pieces = &pieces, .tokens_of = in->words};
    RB_TRY(st, understanding_documents_make(out, &source, &series, err), done);
    st = needle_documents_begin(out, &in->facts.bos.tokens, err);
done:
    if (st != RB_OK) rb_fail_in(err, st, "%s", path);
    text_pieces_free(&pieces);
    free(text);
    return st;
}

static rb_status check_documents(evaluate_inputs *in, const char *name, rb_error *err)
{
    const model_config *config = checkpoint_config(in->model);
    rb_sha256 *hash = NULL;
    rb_status st;
    RB_TRY(st, needle_documents_check_vocabulary(&in->documents, config->vocab_size, name, err), done);
    RB_TRY(st, rb_sha256_begin(&hash, err), done);
    for (int64_t d = 0; d < in->documents.n; d++) {
        const needle_document *document = &in->documents.at[d];
        if (document->n_tokens > model_config_max_context(config)) {
            st = rb_fail(
                err, RB_EINVAL,
                "%s: document %lld has %lld tokens, expected at most the model's max_position_embeddings of %lld", name,
                (long long)d, (long long)document->n_tokens, (long long)model_config_max_context(config));
            goto done;
        }
        RB_TRY(st, rb_sha256_add(hash, document->tokens, (size_t)document->n_tokens * sizeof *document->tokens, err),
               done);
        for (int i = 0; i < document->n_answers; i++)
            RB_TRY(st, rb_sha256_add(hash, &document->answers[i], sizeof document->answers[i], err), done);
    }
    st = rb_sha256_end(&hash, in->documents_sha256, err);
done:
    if (hash) rb_sha256_end(&hash, NULL, NULL);
    return st;
}

/* ---- plans ----------------------------------------------------------------------------------- */

void evaluate_inputs_warn_of_bos(const char *path, const text_bos *plan, const text_bos *text)
{
    const bool is_same =
        plan->mode == text->mode && plan->tokens.n == text->tokens.n
        && memcmp(plan->tokens.ids, text->tokens.ids, (size_t)plan->tokens.n * sizeof *plan->tokens.ids) == 0;
    if (plan->mode == BOS_UNKNOWN || is_same) return;
    rb_message_warn("%s: calibrated on a text with bos %s, and this text has bos %s: the keys are not alike", path,
                    bos_mode_name(plan->mode), bos_mode_name(text->mode));
}

static void override_exact(int64_t *own, int64_t asked, const char *option, const char *path)
{
    if (asked == EVALUATE_AS_PLANNED || asked == *own) return;
    rb_message_info("%s: --%s %lld instead of the plan's %lld", path, option, (long long)asked, (long long)*own);
    *own = asked;
}

static rb_status read_plans(evaluate_inputs *in, const evaluate_options *opt, rb_error *err)
{
    rb_status st = RB_OK;
    for (int i = 0; i < opt->plans.n && st == RB_OK; i++) {
        const char *path = opt->plans.at[i], *slash = strrchr(path, '/');
        rb_escape_text(in->names[i], sizeof in->names[i], slash ? slash + 1 : path);
        st = plan_read_to_code(&in->plans[i], path, err);
        if (st == RB_OK)
            st = model_facts_same(&in->plans[i]->model, path, &checkpoint_config(in->model)->facts, opt->model, err);
        if (st != RB_OK) break;
        evaluate_inputs_warn_of_bos(path, &in->plans[i]->calibration.bos, &in->facts.bos);
        override_exact(&in->plans[i]->n_sink, opt->n_sink, "sink", path);
        override_exact(&in->plans[i]->n_recent, opt->n_recent, "recent", path);
    }
    return st;
}

/* ---- all of it ------------------------------------------------------------------------------- */

static int64_t longest_sequence(const evaluate_inputs *in)
{
    int64_t longest = in->facts.context < in->text.n ? in->facts.context : in->text.n;
    for (int64_t d = 0; d < in->documents.n; d++)
        if (in->documents.at[d].n_tokens > longest) longest = in->documents.at[d].n_tokens;
    return longest;
}

/* By this template; NULL: by the first built-in one whose words fit the contexts. */
static rb_status make_needles(evaluate_inputs *in, const evaluate_options *opt, const char *template_name,
                              rb_error *err)
{
    rb_error first = {0};
    const char *name;
    if (template_name) return evaluate_inputs_make_needles(&in->documents, in, opt, template_name, opt->n_needles, err);
    for (int i = 0; (name = needle_template_builtin(i)) != NULL; i++) {
        rb_error mine = {0};
        const rb_status st = evaluate_inputs_make_needles(&in->documents, in, opt, name, opt->n_needles, &mine);
        if (st != RB_EINVAL) return st == RB_OK ? RB_OK : rb_fail(err, st, "%s", mine.msg);
        if (i == 0) first = mine;
    }
    return rb_fail(err, RB_EINVAL, "%s", first.msg);
}

rb_status evaluate_inputs_make_documents(evaluate_inputs *in, const evaluate_options *opt, const char *template_name,
                                         rb_error *err)
{
    needle_documents understanding = {0};
    rb_status st = RB_OK;
    needle_documents_free(&in->documents);
    if (opt->documents) RB_TRY(st, documents_read(&in->documents, opt->documents, err), done);
    else if (opt->n_needles > 0) RB_TRY(st, make_needles(in, opt, template_name, err), done);
    if (opt->n_understanding > 0) {
        RB_TRY(st, make_understanding(&understanding, in, opt, err), done);
        RB_TRY(st, needle_documents_append(&in->documents, &understanding, err), done);
    }
    if (in->documents.n > 0) RB_TRY(st, check_documents(in, opt->documents ? opt->documents : "documents", err), done);
done:
    needle_documents_free(&understanding);
    return st;
}

rb_status evaluate_inputs_read(evaluate_inputs *in, const evaluate_options *opt, const char *template_name,
                               rb_error *err)
{
    rb_status st;
    *in = (evaluate_inputs){0};
    RB_TRY(st, checkpoint_open(&in->model, opt->model, err), done);
    RB_TRY(st, checkpoint_identify_weights(in->model, err), done);
    RB_TRY(st, tokenizer_open_model(&in->words, opt->model, err), done);
    RB_TRY(st, read_text(in, opt, err), done);
    RB_TRY(st, evaluate_inputs_make_documents(in, opt, template_name, err), done);
    RB_TRY(st, checkpoint_set_longest(in->model, longest_sequence(in), err), done);
    RB_TRY(st, read_plans(in, opt, err), done);
    checkpoint_warn_quantized(in->model);
done:
    return st;
}
