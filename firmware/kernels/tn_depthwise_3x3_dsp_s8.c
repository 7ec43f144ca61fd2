#if defined(__ARM_FEATURE_DSP)
#include "tn_depthwise_dsp_internal.h"

enum { CHANNEL_WORDS = 5 };

/* Copies what the window's rows hold of some channels: three rows of row_bytes for each channel. Rows whose bit is set
 * in outside are left out. */
static void gather(const tn_depthwise_3x3_dsp_layer *layer, const int8_t *const rows[3], uint32_t outside,
                   uint32_t channel, uint32_t channels, uint32_t row_bytes, int8_t *scratch) {
  const uint32_t columns = layer->input.columns, channel_bytes = 3 * row_bytes, quads = columns / 4;
  const uint32_t pitch = layer->input_planes ? 1 : layer->input.channels;
  const uint32_t channel_step = layer->input_planes ? columns : 1;
  for (uint32_t k = 0; k < 3; k++, scratch += row_bytes) {
    const int8_t *from = rows[k] + channel * channel_step;
    if (outside >> k & 1) continue;
    if (channels == 4 && quads && !layer->input_planes) {
      tn_depthwise_transpose_dsp_s8(from, pitch, scratch, channel_bytes, quads);
      if (columns == 4 * quads) continue;
      /* The last four overlap those before: to copy a column again costs less than to copy it alone. */
      from += (columns - 4) * pitch;
      tn_depthwise_transpose_dsp_s8(from, pitch, scratch + columns - 4, channel_bytes, 1);
      continue;
    }
    for (uint32_t c = 0; c < channels; c++) {
      tn_depthwise_spread_dsp_s8(from + c * channel_step, pitch, scratch + c * channel_bytes, 1, columns);
    }
  }
}

void tn_depthwise_3x3_dsp_s8(const tn_depthwise_3x3_dsp_layer *layer, const int8_t *input, int8_t *output,
                             int8_t *scratch, uint32_t first, uint32_t rows) {
  const uint32_t channels = layer->input.channels, in_columns = layer->input.columns;
  const uint32_t out_columns = layer->output.columns, stride = layer->window.stride_columns;
  const uint32_t in_bytes = in_columns * channels, out_bytes = out_columns * channels;
  const uint32_t left = layer->window.padding_left;
  const uint32_t zero_point = (uint16_t)layer->input_zero_point;
  const uint32_t needed = (out_columns - 1) * stride + 3 - left; /* columns, with those of padding on the right */
  const uint32_t right = needed > in_columns;
  uint32_t columns = needed - right, special = TN_DEPTHWISE_NO_BYTES;
  if (stride == 1) {
    if (!left) {
      special = TN_DEPTHWISE_ONE_BYTE;
    } else if (columns > 1 && (columns & 3) == 1) {
      special = TN_DEPTHWISE_PADDED_BYTE; /* leaves no tail */
    }
  } else if (left) {
    special = TN_DEPTHWISE_PADDED_BYTE;
  }
  const uint32_t before = special != TN_DEPTHWISE_NO_BYTES;
  columns -= before;
  const uint32_t gathered_bytes = (in_columns + 3) & ~(uint32_t)3;
  /* The last word of a row may reach into the next channels' rows; there are none behind the last channels. */
  const uint32_t read = before + ((columns + 3) & ~(uint32_t)3);
  uint32_t reaching = read > in_columns ? (read - 1) / in_columns : 0;
  if (reaching > channels || !layer->input_planes) reaching = channels;
  tn_depthwise_3x3_row row = {
      .pixel_bytes = channels,
      .zero_points = zero_point << 16 | zero_point,
      .block_bytes = columns & ~(uint32_t)3,
      .tail = columns & 3 ? (int32_t)(columns & 3) : INT32_MIN,
      .right = right,
  };
  for (uint32_t y = first; rows; y++, rows--) {
    const int32_t origin = (int32_t)(y * layer->window.stride_rows) - layer->window.padding_top;
    int8_t *to = output + y % layer->output_ring * out_bytes;
    const int8_t *sources[3];
    uint32_t outside = 0, direct = channels;
    for (int32_t k = 0; k < 3; k++) {
      sources[k] = input;
      if (origin + k < 0 || origin + k >= layer->input.rows) {
        outside |= 1u << k;
        continue;
      }
      uint32_t slot = (uint32_t)(origin + k) % layer->input_ring;
      sources[k] = input + slot * in_bytes;
      if (slot == layer->input_ring - 1u) direct = channels - reaching;
    }
    tn_depthwise_border border = {
        .zero_points_01 = (outside & 1 ? zero_point : 0) | (outside & 2 ? zero_point << 16 : 0),
        .inside_01 = (outside & 1 ? 0 : 0xFFFFu) | (outside & 2 ? 0 : 0xFFFF0000u),
        .zero_points_22 = outside & 4 ? row.zero_points : 0,
        .inside_22 = outside & 4 ? 0 : 0xFFFFFFFFu,
    };
    if (!layer->input_planes) direct = 0;
    row.border = &border;
    row.special = special | (outside ? TN_DEPTHWISE_BORDER : 0);
    if (row.special) row.special |= TN_DEPTHWISE_SPECIAL_ROW;
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
        gather(layer, sources, outside, done, count, gathered_bytes, scratch);
        row.plane = scratch;
        row.plane_bytes = 3 * gathered_bytes;
        row.row_1 = (int32_t)gathered_bytes;
        row.row_2 = 2 * (int32_t)gathered_bytes;
      }
      row.channel_end = row.channel + count * CHANNEL_WORDS;
      if (stride == 1) {
        tn_depthwise_3x3_stride1_dsp_s8(&row);
      } else {
        tn_depthwise_3x3_stride2_dsp_s8(&row);
      }
      row.channel = row.channel_end;
      row.before += count;
    }
    if (layer->minimum > -128 || layer->maximum < 127)
      tn_depthwise_clamp_dsp_s8(to, out_bytes, layer->minimum, layer->maximum);
  }
}

#endif
