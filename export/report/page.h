/* A page being written: text that is escaped, tables, numbers and pictures. Pictures are inline SVG in percent of their
 * size, so that lines and letters stay as they are when a narrow screen makes the picture narrow. */
#ifndef RB_EXPORT_REPORT_PAGE_H
#define RB_EXPORT_REPORT_PAGE_H

#include <stdio.h>

typedef struct page {
    FILE *out;
    int n_pictures; /* so far: the ids of their titles */
} page;

/* Text of files and people, in an element or an attribute. */
void page_text(const page *p, const char *text);
/* What a format says, escaped likewise. Cut to 511 characters. */
void page_textf(const page *p, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Markup of ours, as it is. */
void page_html(const page *p, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* "1234567" as "1,234,567"; three significant digits, "0.0494", "1.72", "457". Buffers of PAGE_NUMBER_SIZE. */
enum { PAGE_NUMBER_SIZE = 32 };
const char *page_count(char out[PAGE_NUMBER_SIZE], double count);
const char *page_number(char out[PAGE_NUMBER_SIZE], double number);

void page_section_begin(const page *p, const char *id, const char *title);
void page_section_end(const page *p);

/* A table that scrolls sideways by itself where it is too wide. columns: of the head, n of them. */
void page_table_begin(const page *p, const char *caption, const char *const *columns, int n);
void page_table_end(const page *p);
void page_row_begin(const page *p, const char *class, const char *head); /* class NULL: none */
void page_row_end(const page *p);
void page_cell(const page *p, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* An SVG with a title and a description; more attributes as they are. Closed by page_picture_end. */
void page_picture_begin(page *p, const char *attributes, const char *title, const char *description);
void page_picture_end(const page *p);

/* Marks of a linear scale from 0: the step of 1, 2 or 5 times a power of ten that gives about n of them up to most. */
double page_step(double most, int n);

#endif
