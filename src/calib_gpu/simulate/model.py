"""The state of receiver, atmosphere and source in a simulated night: every term of eq. (1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from calib_gpu.atm.builtin import find_builtin
from calib_gpu.errors import ConfigError
from calib_gpu.physics.atmosphere import PASCAL_PER_TORR, airmass, transmission
from calib_gpu.physics.frequency import frequency_axes
from calib_gpu.physics.radiation import rayleigh_jeans_temperature
from calib_gpu.simulate import air
from calib_gpu.simulate.config import IMAGE_HZ, SIGNAL_HZ, SimulationConfig
from calib_gpu.simulate.plan import GroupPlan, beam_offsets, pixel_offsets, scan_duration

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_TYPICAL_SKY_K: Final = 150.0
_FWHM: Final = 4.0 * math.log(2.0)


class Stream(IntEnum):
    """What a stream of random numbers is for."""

    RECEIVER = 0
    SPIKES = 1
    NOISE = 2
    HOLES = 3
    SATURATION = 4


def stream(config: SimulationConfig, purpose: Stream, *where: int) -> np.random.Generator:
    """The random numbers of one thing at one place: independent of all others and of the order of work."""
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(config.seed, spawn_key=(purpose, *where))))


def as_stored(value: float) -> float:
    """The value that L0 keeps: its coordinates are float32, and the model uses them as a reader finds them."""
    return float(np.float32(value))


@dataclass(frozen=True)
class Receiver:
    """The receiver, pixel by pixel.

    ``trec`` T_R (DSB), K, and ``gain`` G at the start of the night, counts/K, both ``[C, R, A]``; ``gain_sig`` and
    ``gain_img`` the normalised sideband gains ``[R, A]``; ``dead`` pixels ``[R, A]``; ``spiked`` channels of COLD
    ``[C, R, A]``.
    """

    trec: Floats
    gain: Floats
    gain_sig: Floats
    gain_img: Floats
    dead: Bools
    spiked: Bools

    @classmethod
    def of(cls, config: SimulationConfig) -> Receiver:
        """Smooth bandpasses with rolled-off edges and ripples, different in every pixel."""
        c, _, n_r, n_a, _ = config.counts_shape
        x = np.linspace(-1.0, 1.0, c)
        flat = 0.25 * (1.0 + np.tanh((x + 0.93) / 0.03)) * (1.0 + np.tanh((0.93 - x) / 0.03))
        trec, gain, spiked = np.empty((n_r, n_a, c)), np.empty((n_r, n_a, c)), np.zeros((n_r, n_a, c), bool)
        gain_sig = np.empty((n_r, n_a))
        scale = config.counts / (config.t_rec + _TYPICAL_SKY_K)
        for r, a in np.ndindex(n_r, n_a):
            rng = stream(config, Stream.RECEIVER, r, a)
            level_t, level_g, level_s = np.clip(rng.standard_normal(3), -2.0, 2.0)
            period_t, period_g = rng.uniform(1.0, 3.0), rng.uniform(3.0, 8.0)
            phase_t, phase_g = rng.uniform(0.0, 2.0 * np.pi, 2)
            ripple_t = 0.12 * x * x + 0.06 * np.cos(np.pi * period_t * x + phase_t)
            ripple_g = 0.08 * np.cos(np.pi * period_g * x + phase_g)
            trec[r, a] = config.t_rec * (1.0 + 0.05 * level_t) * (1.0 + ripple_t)
            gain[r, a] = scale * (1.0 + 0.08 * level_g) * (0.15 + 0.85 * flat) * (1.0 + ripple_g)
            gain_sig[r, a] = min(config.g_sig + config.gain_scatter * level_s, 1.0)
            where = stream(config, Stream.SPIKES, r, a).choice(c, config.load_spikes, replace=False)
            spiked[r, a, where] = True
        if np.any(gain_sig <= 0.0):
            raise ConfigError(
                "not a gain", array="g_sig, gain_scatter", value=float(gain_sig.min()), rule="> 0 in every pixel"
            )
        dead = (np.arange(n_r * n_a) >= n_r * n_a - config.dead_pixels).reshape(n_r, n_a)
        gain[dead] = 0.0
        # held pixel by pixel in memory; the axes that code sees are [C, R, A]
        return cls(
            np.moveaxis(trec, -1, 0),
            np.moveaxis(gain, -1, 0),
            gain_sig,
            1.0 - gain_sig,
            dead,
            np.moveaxis(spiked, -1, 0),
        )


@dataclass(frozen=True)
class Conditions:
    """What changes in time, per subscan of a group, ``[S]``: seconds, PWV in mm, elevation in rad, airmass, G(t)/G(0)."""

    time_s: Floats
    pwv: Floats
    elevation: NDArray[np.float32]
    airmass: Floats
    gain_factor: Floats

    @classmethod
    def of(cls, config: SimulationConfig, group: GroupPlan) -> Conditions:
        """Linear drifts, evaluated at the mid-times of the subscans."""
        scans = group.times / scan_duration(config)
        pwv = config.pwv + config.pwv_drift * scans
        factor = 1.0 + config.gain_drift * scans
        for name, values in (("pwv_drift", pwv), ("gain_drift", factor)):
            if np.any(values <= 0.0):
                raise ConfigError("drifts below 0 within the night", array=name, value=getattr(config, name))
        elevation = np.deg2rad(config.elevation + config.elevation_drift * scans).astype(np.float32)
        return cls(group.times, pwv, elevation, airmass(elevation), factor)


@dataclass(frozen=True)
class Model:
    """The receiver, both frequency axes ``[C]`` in Hz, the air in signal and image band, and the line in K ``[C]``."""

    config: SimulationConfig
    receiver: Receiver
    signal: Floats
    image: Floats
    air: tuple[air.Band, air.Band]
    line_profile: Floats

    @classmethod
    def of(cls, config: SimulationConfig) -> Model:
        """The model of a night."""
        c = config.counts_shape[0]
        signal, image = frequency_axes(SIGNAL_HZ, IMAGE_HZ, config.channel_spacing, reference_channel(config), c)
        bands = (air.layers(signal), air.layers(image)) if config.sky == "layers" else _slab(config, signal, image)
        return cls(config, Receiver.of(config), signal, image, bands, _line(config, signal))

    def power(self, t_signal: Floats, t_image: Floats, r: int, a: int) -> Floats:
        """Sideband-weighted sum g_s P_s + g_i P_i ``[C]``, K."""
        g_s, g_i = float(self.receiver.gain_sig[r, a]), float(self.receiver.gain_img[r, a])
        return g_s * t_signal + g_i * t_image

    def load_power(self, temperature: float, r: int, a: int) -> Floats:
        """What a load at a physical temperature (K) sends into the pixel, eqs. (2a, 2b) with full coupling ``[C]``, K."""
        t = as_stored(temperature)
        return self.power(rayleigh_jeans_temperature(self.signal, t), rayleigh_jeans_temperature(self.image, t), r, a)

    def transmission(self, pwv: float, x: float) -> tuple[Floats, Floats]:
        """Transmission t_s, t_i ``[C]`` at a PWV (mm) and an airmass, eq. (10)."""
        signal, image = self.air
        return transmission(signal.tau(pwv), x), transmission(image.tau(pwv), x)

    def off_power(self, pwv: float, x: float, r: int, a: int) -> Floats:
        """The empty sky at a PWV (mm) and an airmass, eq. (2c): ``[C]``, K."""
        config, eta = self.config, self.config.eta_f
        t_spill = as_stored(config.t_amb if config.t_spill is None else config.t_spill)
        bands = []
        for nu, band, t in zip((self.signal, self.image), self.air, self.transmission(pwv, x), strict=True):
            background, spill = (rayleigh_jeans_temperature(nu, v) for v in (config.t_bg, t_spill))
            bands.append(eta * (band.brightness(pwv, x) * (1.0 - t) + background * t) + (1.0 - eta) * spill)
        return self.power(bands[0], bands[1], r, a)


def _slab(config: SimulationConfig, signal: Floats, image: Floats) -> tuple[air.SlabBand, air.SlabBand]:
    """Air of one temperature, with the opacities of the built-in table at the pressure as stored."""
    pressure = as_stored(pressure_torr(config)) * PASCAL_PER_TORR
    tau = find_builtin(signal, image, pressure=pressure).opacity(signal, image, pressure)
    t_atm = config.t_atm_factor * as_stored(config.t_amb)
    return (
        air.SlabBand(tau.b_signal, tau.c_signal, rayleigh_jeans_temperature(signal, t_atm)),
        air.SlabBand(tau.b_image, tau.c_image, rayleigh_jeans_temperature(image, t_atm)),
    )


def reference_channel(config: SimulationConfig) -> float:
    """The middle of the band, counted from 0."""
    return as_stored(config.counts_shape[0] // 2)


def pressure_torr(config: SimulationConfig) -> float:
    """Ambient pressure in the unit of L0."""
    return config.pressure * 100.0 / PASCAL_PER_TORR


def _line(config: SimulationConfig, signal: Floats) -> Floats:
    def gaussian(centre: float) -> Floats:
        return np.asarray(np.exp(-_FWHM * ((signal - centre) / config.line_width) ** 2))

    centre = SIGNAL_HZ + config.line_offset
    profile = gaussian(centre)
    if config.line_shape == "double":
        half = 0.75 * config.line_width
        profile = gaussian(centre - half) + 0.6 * gaussian(centre + half)
    return np.asarray(config.line_peak * profile)


def source_pattern(config: SimulationConfig, group: GroupPlan) -> Floats:
    """The source on the sky as every pixel sees it in the ON subscans: 1 where it is, ``[D, R, A, S_on]``."""
    lon, lat = (v[:, group.on_index] for v in beam_offsets(config, group))
    pixel_lon, pixel_lat = pixel_offsets(*config.counts_shape[2:4])
    dx = lon[:, None, None, :] + pixel_lon[None, :, :, None] - config.source_lon / 3600.0
    dy = lat[:, None, None, :] + pixel_lat[None, :, :, None] - config.source_lat / 3600.0
    size = config.source_size / 3600.0
    return np.asarray(np.exp(-_FWHM * (dx * dx + dy * dy) / size**2))
