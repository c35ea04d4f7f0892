/* Memory with fences: preloaded, it gives torch each block of numbers between pages that nobody may touch.

   Torch takes the memory of its tensors from posix_memalign. While fences are on, a block begins or ends exactly at
   the edge of its pages, and 4 MiB on both sides of them can be neither read nor written: a kernel that reads or
   writes one number too many ends the process there. New memory is filled with a byte of the caller's choice, so that
   two calls differ where a kernel gives away what it has not written. What is left of the pages must still hold
   that byte when the block is freed. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096UL
#define GUARD (4UL << 20)
#define SPACE (16UL << 40)
#define LARGEST (24UL << 20)

struct block { size_t size, pages; char *data; int filled; };

static char *space, *next;
static volatile int on, fill, front;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static void (*plain_free)(void *);
static int (*plain_memalign)(void **, size_t, size_t);

static void find(void) {
  if (!plain_free) plain_free = (void (*)(void *))dlsym(RTLD_NEXT, "free");
  if (!plain_memalign) plain_memalign = (int (*)(void **, size_t, size_t))dlsym(RTLD_NEXT, "posix_memalign");
}

static void closed(char *at, size_t bytes) {
  mmap(at, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

void fence_on(int value) {
  if (!space) {
    space = mmap(NULL, SPACE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (space == MAP_FAILED) abort();
    next = space;
  }
  on = value;
}

void fence_fill(int value) { fill = value & 255; }

void fence_front(int value) { front = value; }

int posix_memalign(void **out, size_t align, size_t size) {
  find();
  if (!on) return plain_memalign(out, align, size);
  if (size > LARGEST) return ENOMEM;
  size_t pages = size ? (size + PAGE - 1) / PAGE : 1;
  pthread_mutex_lock(&lock);
  char *header = next;
  next += 2 * GUARD + (pages + 1) * PAGE;
  if (next > space + SPACE - 2 * GUARD) abort();
  pthread_mutex_unlock(&lock);
  char *first = header + GUARD;
  if (mprotect(header, PAGE, PROT_READ | PROT_WRITE) || mprotect(first, pages * PAGE, PROT_READ | PROT_WRITE))
    return ENOMEM;
  memset(first, fill, pages * PAGE);
  struct block *block = (struct block *)header;
  block->size = size;
  block->pages = pages;
  block->data = front || !size ? first : first + pages * PAGE - size;
  block->filled = fill;
  *out = block->data;
  return 0;
}

void free(void *data) {
  find();
  char *at = data;
  if (!space || at < space || at >= space + SPACE) {
    plain_free(data);
    return;
  }
  char *first = (char *)((uintptr_t)at & ~(PAGE - 1));
  struct block *block = (struct block *)(first - GUARD);
  char *end = first + block->pages * PAGE;
  for (char *rest = first; rest < end; rest++) {
    if (rest == block->data) rest += block->size;
    if (rest < end && (unsigned char)*rest != block->filled) abort();
  }
  closed(first, block->pages * PAGE);
  closed((char *)block, PAGE);
}
