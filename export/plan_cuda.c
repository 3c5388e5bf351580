/* See export/plan_cuda.h. */
#include "export/plan_cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/atomic_file.h"
#include "export/cuda_vectors.h"
#include "plan/plan_rbp.h"

/* The templates, as the Makefile found them: {"NAME", "TEXT"}. */
static const struct cuda_template {
    const char *name, *text;
} templates[] = {
#include "cuda_templates.h"
};

typedef struct cuda_job {
    const bit_plan *plan;
    codec_tables *codecs;
    ropebits_plan *library_plan;
    cuda_tables tables;
    capture_file *capture;
    cuda_vectors vectors;
} cuda_job;

/* ---- what is written ------------------------------------------------------------------------- */

static void write_constants(FILE *out, const cuda_job *job)
{
    cuda_write_constants(out, job->plan, &job->tables, job->vectors.n_tokens);
}
static void write_tables(FILE *out, const cuda_job *job) { cuda_write_tables(out, &job->tables); }
static void write_vectors(FILE *out, const cuda_job *job) { cuda_write_vectors(out, &job->vectors, &job->tables); }

static const struct generated_file {
    const char *name;
    void (*write)(FILE *out, const cuda_job *job);
} generated[] = {
    {"plan_constants.h", write_constants}, {"plan_tables.c", write_tables}, {"test_vectors.c", write_vectors}};

static rb_status write_text(const char *folder, const char *name, const char *text, size_t size, rb_error *err)
{
    char *path = NULL;
    rb_status st;
    RB_TRY(st, rb_join_path(&path, folder, name, err), done);
    st = rb_atomic_write(path, text, size, err);
done:
    free(path);
    return st;
}

static rb_status write_generated(const cuda_job *job, const struct generated_file *file, const char *folder,
                                 rb_error *err)
{
    char *text = NULL;
    size_t size = 0;
    FILE *memory = open_memstream(&text, &size);
    if (!memory) return rb_fail(err, RB_ENOMEM, "out of memory for %s", file->name);
    file->write(memory, job);
    rb_status st = fclose(memory) == 0 ? RB_OK : rb_fail(err, RB_ENOMEM, "out of memory for %s", file->name);
    if (st == RB_OK) st = write_text(folder, file->name, text, size, err);
    free(text);
    return st;
}

static rb_status write_folder(const cuda_job *job, const char *folder, rb_error *err)
{
    rb_status st = rb_make_folder(folder, err);
    for (size_t i = 0; i < RB_COUNT(generated) && st == RB_OK; i++)
        st = write_generated(job, &generated[i], folder, err);
    for (size_t i = 0; i < RB_COUNT(templates) && st == RB_OK; i++)
        st = write_text(folder, templates[i].name, templates[i].text, strlen(templates[i].text), err);
    return st;
}

/* ---- the plan -------------------------------------------------------------------------------- */

/* As the library for runtimes reads it: plain arrays for every family. */
static rb_status open_plan(ropebits_plan **out, const bit_plan *plan, rb_error *err)
{
    char message[256];
    uint8_t *bytes = NULL;
    size_t size;
    rb_status st;
    RB_TRY(st, plan_rbp_encode(&bytes, &size, plan, err), done);
    if (ropebits_plan_parse(out, bytes, size, message, sizeof message) != 0)
        st = rb_fail(err, RB_EFORMAT, "%s", message);
done:
    free(bytes);
    return st;
}

rb_status plan_cuda_write(const bit_plan *plan, const char *capture, const char *folder, rb_error *err)
{
    cuda_job job = {.plan = plan};
    rb_status st;
    if (capture) {
        RB_TRY(st, capture_open(&job.capture, capture, err), done);
        RB_TRY(st, model_facts_same(&plan->model, "the plan", &capture_file_header(job.capture)->model, capture, err),
               done);
    }
    RB_TRY(st, open_plan(&job.library_plan, plan, err), done);
    RB_TRY(st, codec_tables_create(&job.codecs, err), done);
    RB_TRY(st, cuda_tables_build(&job.tables, job.library_plan, job.codecs, err), done);
    RB_TRY(st, cuda_vectors_make(&job.vectors, plan, &job.tables, job.capture, err), done);
    st = write_folder(&job, folder, err);
done:
    cuda_vectors_free(&job.vectors);
    cuda_tables_free(&job.tables);
    codec_tables_free(job.codecs);
    ropebits_plan_close(job.library_plan);
    capture_close(job.capture);
    return st;
}
