/* Cases for a port in C99: reading and writing .safetensors, recording values and comparing them; see PORTING.md.

   Include it once. With -Dreal=float everything is computed in float32. Nothing is freed: a case is small. */

#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef real
#define real double
#endif

enum { MOST_AXES = 8, MOST_ARRAYS = 4096, NAME = 192 };

typedef struct {
    int axes;
    long shape[MOST_AXES];
    real *values; /* row-major; never freed, a case is small */
} Array;

typedef struct {
    char name[NAME]; /* group/name */
    char type[8];    /* F64, F32, I64, I32 or BOOL */
    Array array;
} Entry;

static Entry given[MOST_ARRAYS], answers[MOST_ARRAYS];
static int given_count, answer_count;
static char *meta;
static const char *meta_text; /* as it stands in the file, in quotes */

static void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("encoder: error: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(2);
}

static void *memory(size_t bytes) {
    void *made = calloc(bytes ? bytes : 1, 1);
    if (!made) fail("out of memory");
    return made;
}

static long size(Array x) {
    long count = 1;
    for (int i = 0; i < x.axes; i++) count *= x.shape[i];
    return count;
}

static Array array(int axes, const long *shape) {
    Array made = {axes, {0}, NULL};
    memcpy(made.shape, shape, axes * sizeof *shape);
    made.values = memory(size(made) * sizeof(real));
    return made;
}

static long last(Array x) { return x.shape[x.axes - 1]; }

/* ---- JSON: finding a value, in text that the reference wrote. */

static const char *space(const char *s) { return s + strspn(s, " \t\r\n,:"); }

static const char *after(const char *s) { /* past the value at s */
    int depth = 0;
    do {
        if (*s == '"') {
            for (s++; *s && *s != '"'; s++) s += *s == '\\' && s[1];
            s += *s == '"';
        } else if (*s == '{' || *s == '[') {
            depth++, s++;
        } else if (*s == '}' || *s == ']') {
            depth--, s++;
        } else {
            s += depth ? 1 : strcspn(s, ",}] \n");
        }
    } while (depth > 0 && *s);
    return s;
}

static const char *member(const char *object, const char *key) { /* its value, or NULL */
    size_t n = strlen(key);
    if (!object || *object != '{') return NULL;
    for (const char *s = space(object + 1); *s == '"';) {
        const char *value = space(after(s));
        if (!strncmp(s + 1, key, n) && s[n + 1] == '"') return strncmp(value, "null", 4) ? value : NULL;
        s = space(after(value));
    }
    return NULL;
}

static double number(const char *object, const char *key, double otherwise) {
    const char *value = member(object, key);
    if (!value) return otherwise;
    return *value == 't' ? 1 : *value == 'f' ? 0 : strtod(value, NULL);
}

static int is(const char *object, const char *key, const char *text) { /* whether the value is this text */
    const char *value = member(object, key);
    return value && *value == '"' && !strncmp(value + 1, text, strlen(text)) && value[strlen(text) + 1] == '"';
}

static char *unescaped(const char *s) { /* the text at s, which is ASCII */
    char *text = memory(after(s) - s + 1), *end = text;
    for (s++; *s && *s != '"'; s++) {
        if (*s != '\\')
            *end++ = *s;
        else if (*++s == 'u')
            fail("meta has a letter that is not ASCII");
        else
            *end++ = *s == 'n' ? '\n' : *s == 't' ? '\t' : *s;
    }
    return text;
}

/* ---- Files: .safetensors, in and out. */

static void read_values(FILE *file, Entry *entry) { /* the machine is little-endian, as the file is */
    for (long i = 0; i < size(entry->array); i++) {
        double f64;
        float f32;
        unsigned char byte;
        size_t read = 0;
        if (!strcmp(entry->type, "F64")) {
            read = fread(&f64, 8, 1, file);
            entry->array.values[i] = f64;
        } else if (!strcmp(entry->type, "F32")) {
            read = fread(&f32, 4, 1, file);
            entry->array.values[i] = f32;
        } else if (!strcmp(entry->type, "BOOL")) {
            read = fread(&byte, 1, 1, file);
            entry->array.values[i] = byte;
        }
        if (!read) fail("%s of dtype %s cannot be read", entry->name, entry->type);
    }
}

static int read_shape(const char *list, long *shape) { /* the number of axes */
    int axes = 0;
    for (const char *a = space(list + 1); *a != ']' && axes < MOST_AXES; a = space(after(a)))
        shape[axes++] = strtol(a, NULL, 10);
    return axes;
}

/* All arrays of a file, their names with a prefix before them; its meta where it has one. */
static void read_arrays(const char *path, const char *prefix) {
    unsigned char length[8];
    FILE *file = fopen(path, "rb");
    if (!file || fread(length, 1, 8, file) != 8) fail("%s cannot be read", path);
    uint64_t n = 0;
    for (int i = 7; i >= 0; i--) n = n << 8 | length[i];
    if (n > 1 << 26) fail("%s is no .safetensors file", path);
    char *header = memory(n + 1);
    if (fread(header, 1, n, file) != n) fail("%s is cut off", path);
    const char *text = member(member(header, "__metadata__"), "meta"), *next;
    if (text && !meta) meta = unescaped(meta_text = text);
    for (const char *s = space(header + 1); *s == '"'; s = space(next)) {
        const char *value = space(after(s));
        next = after(value);
        if (!strncmp(s, "\"__metadata__\"", 14)) continue;
        if (given_count == MOST_ARRAYS || after(s) - s - 1 + strlen(prefix) > NAME)
            fail("too many arrays, or too long a name");
        Entry *entry = &given[given_count++];
        strcpy(entry->name, prefix);
        memcpy(entry->name + strlen(prefix), s + 1, after(s) - s - 2);
        if (!member(value, "dtype") || !member(value, "shape") || !member(value, "data_offsets"))
            fail("%s is no .safetensors file", path);
        sscanf(member(value, "dtype"), "\"%7[^\"]", entry->type);
        long shape[MOST_AXES];
        int axes = read_shape(member(value, "shape"), shape);
        entry->array = array(axes, shape);
        fseek(file, 8 + (long)n + strtol(member(value, "data_offsets") + 1, NULL, 10), SEEK_SET);
        read_values(file, entry);
    }
    fclose(file);
}

static void read_case(const char *path) {
    read_arrays(path, "");
    if (!meta) fail("%s has no meta", path);
}

static Entry *find(Entry *entries, int count, const char *name) {
    for (int i = 0; i < count; i++)
        if (!strcmp(entries[i].name, name)) return &entries[i];
    return NULL;
}

/* An array of the case, without values where it is not there. */
static Array optional(const char *group, const char *scope, const char *name) {
    char full[3 * NAME];
    Array none = {0};
    snprintf(full, sizeof full, "%s%s%s", group, scope, name);
    Entry *found = find(given, given_count, full);
    return found ? found->array : none;
}

static Array needed(const char *group, const char *scope, const char *name) {
    Array found = optional(group, scope, name);
    if (!found.values) fail("the case has no %s%s%s", group, scope, name);
    return found;
}

static void answer(const char *name, Array value) {
    if (answer_count == MOST_ARRAYS) fail("too many points");
    Entry *entry = &answers[answer_count++];
    snprintf(entry->name, NAME, "%s", name);
    entry->array = value;
}

/* Record a value: scope "encoder.", name "latents" -> trace/encoder.latents. A scope alone stands for its result. */
static Array point(const char *scope, const char *name, Array value) {
    char full[NAME];
    int n = snprintf(full, sizeof full, "trace/%s%s", scope, name);
    if (!*name) full[n - 1] = 0; /* the dot */
    answer(full, value);
    return value;
}

static void write_values(FILE *file, Entry *entry) {
    for (long i = 0; i < size(entry->array); i++) {
        double f64 = entry->array.values[i];
        float f32 = (float)f64;
        unsigned char byte = f64 != 0;
        if (!strcmp(entry->type, "F64")) fwrite(&f64, 8, 1, file);
        if (!strcmp(entry->type, "F32")) fwrite(&f32, 4, 1, file);
        if (!strcmp(entry->type, "BOOL")) fwrite(&byte, 1, 1, file);
    }
}

/* The case as it was given, with the outputs and traced values computed here. */
static void write_case(const char *path) {
    static Entry *written[2 * MOST_ARRAYS];
    int count = 0;
    for (int i = 0; i < given_count; i++)
        if (!strncmp(given[i].name, "param/", 6) || !strncmp(given[i].name, "input/", 6)) written[count++] = &given[i];
    for (int i = 0; i < answer_count; i++) {
        strcpy(answers[i].type, is(meta, "dtype", "float32") ? "F32" : "F64");
        written[count++] = &answers[i];
    }
    char *header = memory(strlen(meta_text) + count * (NAME + 21 * (MOST_AXES + 2) + 64) + 64), *end = header;
    long begin = 0;
    end += sprintf(end, "{\"__metadata__\":{\"meta\":%.*s}", (int)(after(meta_text) - meta_text), meta_text);
    for (int i = 0; i < count; i++) {
        Array x = written[i]->array;
        long bytes = size(x) * (written[i]->type[0] == 'B' ? 1 : written[i]->type[1] == '3' ? 4 : 8);
        end += sprintf(end, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", written[i]->name, written[i]->type);
        for (int axis = 0; axis < x.axes; axis++) end += sprintf(end, axis ? ",%ld" : "%ld", x.shape[axis]);
        end += sprintf(end, "],\"data_offsets\":[%ld,%ld]}", begin, begin + bytes);
        begin += bytes;
    }
    end += sprintf(end, "}");
    FILE *file = fopen(path, "wb");
    if (!file) fail("%s cannot be written", path);
    for (int i = 0; i < 8; i++) fputc((int)((uint64_t)(end - header) >> 8 * i & 255), file);
    fwrite(header, 1, end - header, file);
    for (int i = 0; i < count; i++) write_values(file, written[i]);
    if (fclose(file)) fail("%s cannot be written", path);
}

static double difference(Array ours, Array theirs) { /* max |a - b| / max(max |b|, 1) */
    double most = 0, largest = 1;
    if (ours.axes != theirs.axes || memcmp(ours.shape, theirs.shape, ours.axes * sizeof(long))) return INFINITY;
    for (long i = 0; i < size(ours); i++) {
        double off = fabs((double)ours.values[i] - theirs.values[i]), b = fabs((double)theirs.values[i]);
        if (!(off <= most)) most = isnan(off) ? INFINITY : off;
        if (b > largest) largest = b;
    }
    return most / largest;
}

/* Print how the answers agree with what the case has, the first ones that differ by name; returns how many differ. */
static int compare(void) {
    double tolerance = sizeof(real) == 4 || is(meta, "dtype", "float32") ? 1e-5 : 1e-10, most = 0;
    int compared = 0, wrong = 0;
    tolerance = number(member(meta, "tolerance"), "output", tolerance);
    for (int i = 0; i < answer_count; i++) {
        Entry *expected = find(given, given_count, answers[i].name);
        if (!expected) continue;
        double error = difference(answers[i].array, expected->array);
        compared++;
        if (error > most) most = error;
        if (error > tolerance && wrong++ < 3) printf("%s: error %.1e\n", answers[i].name, error);
    }
    if (!compared) fail("the case has nothing to compare with");
    printf("%d of %d points differ; largest error %.1e, tolerance %.0e\n", wrong, compared, most, tolerance);
    return wrong;
}
