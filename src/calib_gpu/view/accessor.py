"""``dataset.calib``: velocities, flags by name, weighted means and spectra for other tools. Needs xarray."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import or_
from typing import Any

import numpy as np
import xarray as xr

from calib_gpu.errors import ConfigError
from calib_gpu.physics.frequency import rest_hz
from calib_gpu.schema import Flag
from calib_gpu.view.velocity import velocity


@xr.register_dataset_accessor("calib")  # type: ignore[no-untyped-call]
class Calib:
    """Methods of a scan of L1, as ``scan.calib``; also of what :meth:`average` and indexing make of it."""

    def __init__(self, dataset: xr.Dataset) -> None:
        self._scan = dataset

    # --- axes

    def velocity(self, rest_ghz: Any = None, convention: str = "radio") -> xr.DataArray:
        """Velocity of each channel ``[C]``, km/s, in the frame of the frequencies.

        Parameters
        ----------
        rest_ghz
            Rest frequency, GHz, or a quantity of astropy; None takes the attribute ``rest_frequency_hz`` of the scan.
        convention
            ``radio``, ``optical`` or ``relativistic``.
        """
        rest = self._rest(rest_ghz)
        axis: xr.DataArray = velocity(self._scan.frequency_signal, rest, convention) / 1e3
        about = {"units": "km/s", "long_name": f"velocity ({convention})", "rest_frequency_hz": rest}
        return axis.rename("velocity").assign_attrs(about).drop_vars(list(axis.coords))

    def with_velocity(self, rest_ghz: Any = None, convention: str = "radio") -> xr.Dataset:
        """The dataset with ``velocity`` as the index of axis C, for ``.sel(C=slice(...))``, and for plots."""
        axis = self.velocity(rest_ghz, convention)
        made = self._scan.assign_coords(C=("C", axis.data, axis.attrs))
        made.attrs["rest_frequency_hz"] = axis.attrs["rest_frequency_hz"]
        return made

    def offsets(self) -> xr.Dataset:
        """Where each spectrum was taken: ``lon`` and ``lat`` ``[D,R,A,S]``, deg from the source, true angles on the sky.

        The offset of the reference beam and that of the pixel, summed (physics, 6.5); what L0 does not tell is 0.
        """
        sizes = {name: self._scan.sizes[name] for name in ("D", "R", "A", "S") if name in self._scan.sizes}
        found = {}
        for axis in ("lon", "lat"):
            parts = [self._scan[f"{kind}_{axis}"] for kind in ("otf", "pixel_offset") if f"{kind}_{axis}" in self._scan]
            total = sum((p.reset_coords(drop=True) for p in parts), start=xr.DataArray(np.zeros(()), attrs={}))
            found[axis] = total.broadcast_like(xr.DataArray(np.zeros(tuple(sizes.values())), dims=tuple(sizes)))
            found[axis] = found[axis].transpose(*sizes).assign_attrs(units="deg", long_name=f"offset in {axis}")
        return xr.Dataset(found)

    def _rest(self, given: Any) -> float:
        """Rest frequency [Hz]."""
        if given is not None:
            return rest_hz(float(given.to("GHz").value if hasattr(given, "to") else given), "rest_ghz")
        known = self._scan.attrs.get("rest_frequency_hz")
        if known is None:
            raise ConfigError(
                "no rest frequency", array="rest_ghz", rule="given in GHz, or attribute rest_frequency_hz of the scan",
                fix="e.g. .velocity(492.160651)",
            )  # fmt: skip
        return float(known)

    # --- flags

    def flagged(self, *names: str) -> xr.DataArray:
        """True where any of these flags is set; without names where any flag is.

        Names are those of the flag table, in any case: ``flagged("bad_channel", "opaque")``.
        """
        bits = reduce(or_, map(_bit, names)) if names else 0xFFFF
        found: xr.DataArray = (self._scan.flags & np.uint16(bits)) != 0
        return found

    def masked(self, *names: str) -> xr.DataArray:
        """``spectra`` with NaN where any of these flags is set; without names where any flag is.

        Samples that the engine flagged are NaN whatever names are given: it wrote no value for them.
        """
        spectra: xr.DataArray = self._scan.spectra
        return spectra.where(~self.flagged(*names))

    # --- means

    def average(
        self, dims: Sequence[str] | str = ("D", "S"), *, weights: str = "t_sys", flags: Sequence[str] = ()
    ) -> xr.Dataset:
        """Mean spectra over some axes, of samples without a flag.

        Parameters
        ----------
        dims
            Axes of ``spectra`` to average over; those that are not there any more are left out.
        weights
            ``t_sys``: exptime_on / t_sys^2 of each sample, the weights of least noise; ``exptime``; or ``none``.
        flags
            Names of the flags that exclude a sample; all if empty.

        Returns
        -------
        Dataset
            ``spectra`` (K); ``exptime`` (s), the summed integration time of what entered each mean; ``t_sys`` (K), for
            which the radiometer equation with that time gives the noise of the ONs: sum(t) / T^2 = sum(t / t_sys^2).
        """
        over = [d for d in ([dims] if isinstance(dims, str) else dims) if d in self._scan.spectra.dims]
        time = self._scan.exptime_on.reset_coords(drop=True)
        noise = self._scan.t_sys.reset_coords(drop=True)
        made = {"t_sys": time / noise**2, "exptime": time, "none": xr.ones_like(time)}
        if weights not in made:
            raise ConfigError("no such weights", array="weights", value=weights, rule=" | ".join(made))
        spectra = self.masked(*flags)
        weight = made[weights].where(spectra.notnull(), 0.0)
        seconds = time.where(spectra.notnull(), 0.0).sum(over)
        sensitivity = made["t_sys"].where(spectra.notnull(), 0.0).sum(over)
        total = weight.sum(over)
        mean = (spectra.fillna(0.0) * weight).sum(over) / total.where(total > 0.0)
        out = xr.Dataset(
            {
                "spectra": mean.assign_attrs(self._scan.spectra.attrs),
                "t_sys": ((seconds / sensitivity.where(sensitivity > 0.0)) ** 0.5).assign_attrs(self._scan.t_sys.attrs),
                "exptime": seconds.assign_attrs(units="s", long_name="summed integration time of the ONs"),
            },
            attrs=self._scan.attrs,
        )
        return out

    # --- other tools

    def to_spectrum(self, rest_ghz: Any = None, convention: str = "radio") -> Any:
        """The spectra as a ``specutils.Spectrum``: K over Hz, spectral axis last, what is not a number masked.

        Parameters
        ----------
        rest_ghz, convention
            As for :meth:`velocity`; without a rest frequency the spectrum has none.

        Raises
        ------
        ConfigError
            specutils is not installed (``pip install 'calib-gpu[specutils]'``).
        """
        try:
            from astropy import units as u
            from specutils import Spectrum
        except ImportError:
            raise ConfigError("specutils is not here", fix="pip install 'calib-gpu[specutils]'") from None
        spectra = self._scan.spectra.transpose(..., "C")
        values = np.asarray(spectra.values)
        axis = np.asarray(self._scan.frequency_signal.values, np.float64) * u.Hz
        meta = {k: v for k, v in self._scan.attrs.items() if k not in ("files", "inputs", "qa", "settings")}
        known = rest_ghz is not None or "rest_frequency_hz" in self._scan.attrs
        more = {"rest_value": self._rest(rest_ghz) * u.Hz, "velocity_convention": convention} if known else {}
        return Spectrum(flux=values * u.K, spectral_axis=axis, mask=np.isnan(values), meta=meta, **more)


def _bit(name: str) -> int:
    try:
        return int(Flag[name.upper()])
    except KeyError:
        known = ", ".join(str(flag.name).lower() for flag in Flag)
        raise ConfigError("no such flag", array="flags", value=name, rule=known) from None
