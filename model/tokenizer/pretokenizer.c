/* Cutting text into pieces: see pretokenizer.h. Reading is in pretokenizer_file.c. */
#include "model/tokenizer/pretokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "model/tokenizer/byte_level.h"
#include "model/tokenizer/pretokenizer_steps.h"

struct pretokenizer_scratch {
    split_scratch *split;
    text_buffer rewritten[PRETOKENIZER_MAX_STEPS]; /* the piece at hand of every step that rewrites its piece */
};

rb_status pretokenizer_scratch_new(pretokenizer_scratch **out, rb_error *err)
{
    pretokenizer_scratch *scratch = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, rb_alloc(&scratch, 1, sizeof *scratch, "pre-tokenizer scratch", err), done);
    RB_TRY(st, split_scratch_new(&scratch->split, err), done);
    *out = scratch;
    scratch = NULL;
done:
    pretokenizer_scratch_free(scratch);
    return st;
}

void pretokenizer_scratch_free(pretokenizer_scratch *scratch)
{
    if (!scratch) return;
    split_scratch_free(scratch->split);
    for (int i = 0; i < PRETOKENIZER_MAX_STEPS; i++) free(scratch->rewritten[i].at);
    free(scratch);
}

split_scratch *pretokenizer_split_scratch(pretokenizer_scratch *scratch) { return scratch->split; }

typedef struct split_run {
    const pretokenizer *pretokenizer;
    pretokenizer_scratch *scratch;
    pretokenizer_piece_fn on_piece;
    void *user;
} split_run;

/* Takes a piece through the steps from number `step` on. */
static rb_status run_steps(const split_run *run, int step, text_stretch piece, rb_error *err);

/* ---- splitting ------------------------------------------------------------------------------- */

/* The stretches of a text, matches and what stands between them, come in order. One is held back, as the next one
 * decides where it ends. */
typedef struct split_state {
    const split_run *run;
    int step;
    text_stretch text;
    bool has_held, held_is_match; /* held_is_match: of the last stretch that went into it */
    size_t held_from, held_to;
} split_state;

static rb_status hand_on(const split_state *s, size_t from, size_t to, rb_error *err)
{
    return from == to ? RB_OK : run_steps(s->run, s->step + 1, text_stretch_part(s->text, from, to), err);
}

static bool joins_held(const split_state *s, split_behavior behavior, bool is_match)
{
    if (!s->has_held) return false;
    switch (behavior) {
    case SPLIT_CONTIGUOUS: return is_match == s->held_is_match;
    case SPLIT_MERGED_WITH_PREVIOUS: return is_match && !s->held_is_match;
    case SPLIT_MERGED_WITH_NEXT: return !is_match && s->held_is_match;
    default: return false;
    }
}

static rb_status flush_held(split_state *s, rb_error *err)
{
    const bool had = s->has_held;
    s->has_held = false;
    return had ? hand_on(s, s->held_from, s->held_to, err) : RB_OK;
}

static rb_status add_stretch(split_state *s, size_t from, size_t to, bool is_found, rb_error *err)
{
    const pretokenizer_step *step = &s->run->pretokenizer->steps[s->step];
    const bool is_match = is_found != step->is_inverted;
    if (step->behavior == SPLIT_ISOLATED) return hand_on(s, from, to, err);
    if (step->behavior == SPLIT_REMOVED) return is_match ? RB_OK : hand_on(s, from, to, err);
    if (!joins_held(s, step->behavior, is_match)) {
        const rb_status st = flush_held(s, err);
        if (st != RB_OK) return st;
        s->has_held = true;
        s->held_from = from;
    }
    s->held_to = to;
    s->held_is_match = is_match;
    return RB_OK;
}

static rb_status split_piece(const split_run *run, int step, text_stretch piece, rb_error *err)
{
    split_state s = {.run = run, .step = step, .text = piece};
    pattern_scan scan = {.text = piece.at, .length = piece.length};
    size_t done = 0;
    rb_status st;
    for (;;) {
        bool found;
        RB_TRY(st, text_pattern_next(&run->pretokenizer->steps[step].pattern, run->scratch->split, &scan, &found, err),
               done);
        const size_t match = found ? scan.start : piece.length, match_end = scan.end;
        if (match > done) RB_TRY(st, add_stretch(&s, done, match, false, err), done);
        if (!found) break;
        RB_TRY(st, add_stretch(&s, match, match_end, true, err), done);
        done = match_end;
    }
    st = flush_held(&s, err);
done:
    return st;
}

/* ---- rewriting ------------------------------------------------------------------------------- */

/* Spaces of the text from `from` on become the sign, wherever that makes the text longer. */
static rb_status sign_spaces(const char *sign, text_stretch in, text_buffer *out, size_t *n_first, rb_error *err)
{
    const size_t size = strlen(sign);
    const char *space;
    rb_status st;
    if (in.n_first > 0 && in.at[0] == ' ') *n_first += size - 1;
    while (in.length > 0 && (space = memchr(in.at, ' ', in.length))) {
        const size_t before = (size_t)(space - in.at);
        RB_TRY(st, text_buffer_add(out, in.at, before, err), done);
        RB_TRY(st, text_buffer_add(out, sign, size, err), done);
        in.at += before + 1;
        in.length -= before + 1;
    }
    st = text_buffer_add(out, in.at, in.length, err);
done:
    return st;
}

static rb_status put_prefix(const pretokenizer_step *step, text_stretch in, text_buffer *out, size_t *n_first,
                            rb_error *err)
{
    const size_t size = strlen(step->sign);
    const bool is_there = in.length >= size && memcmp(in.at, step->sign, size) == 0;
    rb_status st = RB_OK;
    if (!is_there && !(step->is_for_first_only && in.n_first == 0)) {
        st = text_buffer_add(out, step->sign, size, err);
        if (in.n_first > 0) *n_first += size;
    }
    return st == RB_OK ? text_buffer_add(out, in.at, in.length, err) : st;
}

static rb_status bytes_to_symbols(text_stretch in, text_buffer *out, size_t *n_first, rb_error *err)
{
    const rb_status st = text_buffer_reserve(out, in.length * BYTE_LEVEL_MAX_SIZE, err);
    if (st != RB_OK) return st;
    *n_first = byte_level_encode(in.at, in.n_first, out->at);
    out->length = *n_first + byte_level_encode(in.at + in.n_first, in.length - in.n_first, out->at + *n_first);
    return RB_OK;
}

static rb_status rewrite_piece(const split_run *run, int step, text_stretch piece, rb_error *err)
{
    const pretokenizer_step *how = &run->pretokenizer->steps[step];
    text_buffer *out = &run->scratch->rewritten[step];
    size_t n_first = piece.n_first;
    rb_status st = RB_OK;
    out->length = 0;
    if (how->kind == STEP_SIGN_SPACES) st = sign_spaces(how->sign, piece, out, &n_first, err);
    else if (how->kind == STEP_PREFIX) st = put_prefix(how, piece, out, &n_first, err);
    else st = bytes_to_symbols(piece, out, &n_first, err);
    if (st != RB_OK) return st;
    return run_steps(run, step + 1, (text_stretch){out->at, out->length, n_first}, err);
}

static rb_status run_steps(const split_run *run, int step, text_stretch piece, rb_error *err)
{
    if (step == run->pretokenizer->n_steps) return run->on_piece(run->user, piece.at, piece.length, err);
    if (run->pretokenizer->steps[step].kind == STEP_SPLIT) return split_piece(run, step, piece, err);
    return rewrite_piece(run, step, piece, err);
}

rb_status pretokenizer_split(const pretokenizer *p, pretokenizer_scratch *scratch, text_stretch text,
                             pretokenizer_piece_fn on_piece, void *user, rb_error *err)
{
    const split_run run = {p, scratch, on_piece, user};
    return text.length == 0 ? RB_OK : run_steps(&run, 0, text, err);
}
