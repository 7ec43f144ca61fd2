#if defined(__ARM_FEATURE_DSP)
#include "tn_depthwise_dsp_internal.h"

enum { CHANNEL_WORDS = 5 };

/* Copies what the window's rows hold of some channels: three rows of row_bytes for each channel. Rows outside of
 * the input are left out; last is the last row of the input's buffer. */
static void gather(const tn_depthwise_3x3_dsp_layer *layer, const int8_t *const rows[3], const int8_t *last,
                   uint32_t special, uint32_t channel, uint32_t channels, uint32_t row_bytes, int8_t *scratch) {
  const uint32_t columns = layer->input.columns, channel_bytes = 3 * row_bytes, quads = columns / 4;
  const uint32_t pitch = layer->input_planes ? 1 : layer->input.channels;
  const uint32_t channel_step = layer->input_planes ? columns : 1;
  for (uint32_t k = 0; k < 3; k++, scratch += row_bytes) {
    const int8_t *from = rows[k] + channel * channel_step;
    if (k == 0 && special & TN_DEPTHWISE_TOP) continue;
    if (k == 2 && special & TN_DEPTHWISE_BOTTOM) continue;
    if (channels == 4 && quads && !layer->input_planes) {
      /* Another row's pixels may follow those of this one, but not behind the last. */
      const uint32_t all = rows[k] == last ? quads : row_bytes / 4;
      tn_depthwise_transpose_dsp_s8(from, pitch, scratch, channel_bytes, all);
      if (columns <= 4 * all) continue;
      /* These four columns overlap those before: to copy a column again costs less than to copy it alone. */
      tn_depthwise_transpose_dsp_s8(from + (columns - 4) * pitch, pitch, scratch + columns - 4, channel_bytes, 1);
      continue;
    }
    for (uint32_t c = 0; c < channels; c++) {
      tn_depthwise_spread_dsp_s8(from + c * channel_step, pitch, scratch + c * channel_bytes, 1, columns, 1, 0);
    }
  }
}

void tn_depthwise_3x3_rows_dsp_s8(const tn_depthwise_3x3_dsp_layer *layer, const int8_t *input, int8_t *output,
                                  int8_t *scratch, uint32_t first, uint32_t rows, tn_depthwise_3x3_core *core) {
  static const uint32_t starts[] = {0, TN_DEPTHWISE_SPECIAL | TN_DEPTHWISE_ONE_COLUMN,
                                    TN_DEPTHWISE_SPECIAL | TN_DEPTHWISE_PADDED_COLUMN};
  const uint32_t channels = layer->input.channels, in_columns = layer->input.columns;
  const uint32_t in_bytes = in_columns * channels, out_bytes = layer->output.columns * channels;
  const uint32_t wrap = (layer->input_ring - 1u) * in_bytes, gathered_bytes = (in_columns + 3) & ~(uint32_t)3;
  const int8_t *last = input + wrap;
  tn_depthwise_3x3_row row;
  row.pixel_bytes = channels;
  row.zero_points = (uint16_t)layer->input_zero_point * 0x10001u;
  row.block_bytes = layer->block_columns;
  row.tail = layer->tail ? layer->tail : INT32_MIN;
  row.right = layer->right;
  for (uint32_t y = first; rows; y++, rows--) {
    /* The middle row lies inside of the input. Rows that do not are never used: the middle one stands in for them. */
    const uint32_t middle = y * layer->window.stride_rows + 1 - layer->window.padding_top;
    const int8_t *sources[3];
    sources[0] = sources[1] = sources[2] = input + middle % layer->input_ring * in_bytes;
    row.special = starts[layer->start];
    if (middle == 0) {
      row.special |= TN_DEPTHWISE_SPECIAL | TN_DEPTHWISE_TOP;
    } else {
      sources[0] += sources[1] == input ? wrap : -in_bytes;
    }
    if (middle + 1 == layer->input.rows) {
      row.special |= TN_DEPTHWISE_SPECIAL | TN_DEPTHWISE_BOTTOM;
    } else {
      sources[2] += sources[1] == last ? -wrap : in_bytes;
    }
    uint32_t direct = layer->input_planes ? channels : 0;
    if (direct && (sources[0] == last || sources[1] == last || sources[2] == last)) direct -= layer->reaching;
    int8_t *to = output + y % layer->output_ring * out_bytes;
    row.channel = layer->channels;
    row.before = to - channels;
    row.plane = sources[0];
    row.plane_bytes = in_columns;
    row.row_1 = sources[1] - sources[0];
    row.row_2 = sources[2] - sources[0];
    uint32_t count = direct;
    for (uint32_t done = 0; done < channels; done += count) {
      if (done >= direct) {
        count = channels - done < layer->gather_channels ? channels - done : layer->gather_channels;
        gather(layer, sources, last, row.special, done, count, gathered_bytes, scratch);
        row.plane = scratch;
        row.plane_bytes = 3 * gathered_bytes;
        row.row_1 = (int32_t)gathered_bytes;
        row.row_2 = 2 * (int32_t)gathered_bytes;
      }
      row.channel_end = row.channel + count * CHANNEL_WORDS;
      core(&row);
      row.channel = row.channel_end;
      row.before += count;
    }
    if (layer->minimum > -128 || layer->maximum < 127) {
      tn_depthwise_clamp_dsp_s8(to, out_bytes, layer->minimum, layer->maximum);
    }
  }
}

#endif
