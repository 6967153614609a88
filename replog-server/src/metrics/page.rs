//! Families of metrics, one after the other: from values to `prometheus-client`.

use prometheus_client::encoding::EncodeCounterValue;

use super::*;

static BYTES: Unit = Unit::Bytes;
static SECONDS: Unit = Unit::Seconds;

/// An answer that is being written.
pub(super) struct Page<'a>(DescriptorEncoder<'a>);

/// Labels with their values.
type Labels<'l, const N: usize> = [(&'l str, &'l str); N];

impl<'a> Page<'a> {
    pub(super) fn new(encoder: DescriptorEncoder<'a>) -> Page<'a> {
        Page(encoder)
    }

    /// Begins a family; its name ends with its unit.
    fn family<'s>(
        &'s mut self,
        name: &'s str,
        help: &str,
        kind: MetricType,
    ) -> Result<MetricEncoder<'s>, fmt::Error> {
        let (stem, unit) = match (name.strip_suffix("_bytes"), name.strip_suffix("_seconds")) {
            (Some(stem), _) => (stem, Some(&BYTES)),
            (_, Some(stem)) => (stem, Some(&SECONDS)),
            (None, None) => (name, None),
        };
        self.0.encode_descriptor(stem, help, unit, kind)
    }

    /// Writes constant words as labels; `_info` follows the name.
    pub(super) fn info<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: &Labels<'_, N>,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Info)?
            .encode_info(labels)
    }

    /// Writes one current value.
    pub(super) fn gauge(
        &mut self,
        name: &str,
        help: &str,
        value: impl EncodeGaugeValue,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Gauge)?
            .encode_gauge(&value)
    }

    /// Writes current values.
    pub(super) fn gauges<'l, V: EncodeGaugeValue, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'l, N>, V)>,
    ) -> fmt::Result {
        let mut family = self.family(name, help, MetricType::Gauge)?;
        for (labels, value) in samples {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    /// Writes 1 for the current state, 0 for all others.
    pub(super) fn states<S: fmt::Display + PartialEq>(
        &mut self,
        name: &str,
        help: &str,
        (label, all): (&str, &[S]),
        now: Option<&S>,
    ) -> fmt::Result {
        let words: Vec<String> = all.iter().map(S::to_string).collect();
        let samples = all.iter().zip(&words);
        self.gauges(
            name,
            help,
            samples.map(|(state, word)| ([(label, word.as_str())], u64::from(now == Some(state)))),
        )
    }

    /// Writes counts that only grow; `_total` follows the name.
    pub(super) fn counters<'l, V: EncodeCounterValue, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'l, N>, V)>,
    ) -> fmt::Result {
        let mut family = self.family(name, help, MetricType::Counter)?;
        for (labels, value) in samples {
            let mut sample = family.encode_family(&labels)?;
            sample.encode_counter(&value, None::<&Exemplar<NoLabelSet, f64>>)?;
        }
        Ok(())
    }

    /// Writes histograms.
    pub(super) fn histogram<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'l, N>, &'l Histogram)>,
    ) -> fmt::Result {
        let mut family = self.family(name, help, MetricType::Histogram)?;
        for (labels, histogram) in samples {
            family
                .encode_family(&labels)?
                .encode_histogram::<NoLabelSet>(
                    histogram.sum(),
                    histogram.count(),
                    histogram.buckets(),
                    None,
                )?;
        }
        Ok(())
    }
}
