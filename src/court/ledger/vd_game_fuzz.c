/* Any game and any move: a result, and what is not rejected is a game that can be stored and read back.
 * Input: u16 length of a game's bytes (two bits above them: whose job), these, then a move, of the side whose
 * turn it is. */
#include "vd_fuzz_jobs.h"
#include "vd_game.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

enum { GAME_BYTES = 0x3fff, JOB_SHIFT = 14 };

/* Tokens of either decoder; vectors of a decoder and of an encoder. */
static void job_of(struct vd_fuzz_job *j, unsigned which)
{
    struct vd_program p = which == 1 ? vd_fuzz_features() : which == 3 ? vd_fuzz_encoder() : vd_fuzz_plain();
    vd_fuzz_job_init(j, &p, which >= 2 ? VD_POOLING_MEAN : VD_POOLING_NONE);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    static struct vd_game game, before, again;
    static uint8_t bytes[VD_GAME_MAX_BYTES];
    struct vd_fuzz_job job;
    if (n_bytes < 2)
        return 0;
    job_of(&job, vd_le16_load(data) >> JOB_SHIFT);
    size_t n_game = vd_le16_load(data) & GAME_BYTES;
    if (n_game > n_bytes - 2 || !vd_game_decode((struct vd_bytes){data + 2, n_game}, &job.claim, &game))
        return 0;
    size_t n = vd_game_encode(&game, bytes, sizeof bytes);
    assert(n == n_game && memcmp(bytes, data + 2, n) == 0);
    before = game;
    struct vd_bytes move = {data + 2 + n_game, n_bytes - 2 - n_game};
    enum vd_game_result r = vd_game_move(&game, &job.claim, NULL, vd_game_turn(&game), move);
    if (vd_game_rejected(r)) {
        assert(memcmp(&game, &before, sizeof game) == 0);
        return 0;
    }
    n = vd_game_encode(&game, bytes, sizeof bytes);
    assert(n > 0 && vd_game_decode((struct vd_bytes){bytes, n}, &job.claim, &again));
    return 0;
}
