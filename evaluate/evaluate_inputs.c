/* See evaluate_inputs.h. */
#include "evaluate/evaluate_inputs.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/message.h"
#include "model/model_tokenizer.h"
#include "plan/plan_read.h"
#include "texts/documents_file.h"
#include "texts/sequences.h"

enum { HAYSTACK_TOKENS = 1 << 17, MAX_TASKS = NEEDLE_N_TASKS };

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

/* Makes --needles documents for each task, over the contexts and depths that were asked for. */
static rb_status make_documents(evaluate_inputs *in, const evaluate_options *opt, rb_error *err)
{
    needle_task tasks[MAX_TASKS];
    int64_t contexts[RB_MAX_LIST];
    double random_depth = NAN;
    needle_template words = {0};
    token_list haystack = {0};
    needle_series series = {.tasks = tasks,
                            .contexts = contexts,
                            .depths = opt->depths.n > 0 ? opt->depths.at : &random_depth,
                            .n_depths = opt->depths.n > 0 ? opt->depths.n : 1,
                            .n_repeats = (int)opt->n_needles,
                            .seed = (uint64_t)opt->seed,
                            .counts = needle_counts_default()};
    rb_status st;
    for (int i = 0; i < opt->needle_tasks.n && series.n_tasks < MAX_TASKS; i++)
        for (int task = 0; task < NEEDLE_N_TASKS; task++)
            if (strcmp(opt->needle_tasks.at[i], needle_task_names[task]) == 0)
                tasks[series.n_tasks++] = (needle_task)task;
    for (int i = 0; i < opt->needle_contexts.n; i++)
        contexts[series.n_contexts++] = (int64_t)opt->needle_contexts.at[i];
    if (series.n_contexts == 0) contexts[series.n_contexts++] = in->facts.context;
    for (int i = 0; i < series.n_contexts; i++) {
        if (contexts[i] > model_config_max_context(checkpoint_config(in->model)))
            return rb_fail(err, RB_EINVAL,
                           "--needle-contexts has %lld, expected at most the model's max_position_embeddings of %lld",
                           (long long)contexts[i], (long long)model_config_max_context(checkpoint_config(in->model)));
        contexts[i] -= in->facts.bos.tokens.n; /* each document is a text and begins like one */
    }
    RB_TRY(st, needle_template_open(&words, opt->needle_template, err), done);
    RB_TRY(st, tokens_from_text(&haystack, opt->haystack ? opt->haystack : opt->text, in->words, HAYSTACK_TOKENS, err),
           done);
    const needle_source source = {
        .needles = &words, .tokens_of = in->words, .haystack = haystack.ids, .n_haystack = haystack.n};
    RB_TRY(st, needle_documents_make(&in->documents, &source, &series, err), done);
    st = needle_documents_begin(&in->documents, &in->facts.bos.tokens, err);
done:
    needle_template_free(&words);
    token_list_free(&haystack);
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

static void warn_of_other_bos(const char *path, const text_bos *plan, const text_bos *text)
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
        in->names[i] = slash ? slash + 1 : path;
        st = plan_read(&in->plans[i], path, err);
        if (st == RB_OK)
            st = model_facts_same(&in->plans[i]->model, path, &checkpoint_config(in->model)->facts, opt->model, err);
        if (st != RB_OK) break;
        warn_of_other_bos(path, &in->plans[i]->calibration.bos, &in->facts.bos);
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

rb_status evaluate_inputs_read(evaluate_inputs *in, const evaluate_options *opt, rb_error *err)
{
    rb_status st;
    *in = (evaluate_inputs){0};
    RB_TRY(st, checkpoint_open(&in->model, opt->model, err), done);
    RB_TRY(st, tokenizer_open_model(&in->words, opt->model, err), done);
    RB_TRY(st, read_text(in, opt, err), done);
    if (opt->documents) RB_TRY(st, documents_read(&in->documents, opt->documents, err), done);
    else if (opt->n_needles > 0) RB_TRY(st, make_documents(in, opt, err), done);
    if (in->documents.n > 0)
        RB_TRY(st, check_documents(in, opt->documents ? opt->documents : "needle documents", err), done);
    RB_TRY(st, checkpoint_set_longest(in->model, longest_sequence(in), err), done);
    RB_TRY(st, read_plans(in, opt, err), done);
    if (in->documents.n > 0 && opt->write_documents)
        RB_TRY(st, documents_write(&in->documents, opt->write_documents, err), done);
    checkpoint_warn_quantized(in->model);
done:
    return st;
}
