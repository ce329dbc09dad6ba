"""The columns of an SDFITS row: names of the convention (Garwood 2000, ASP Conf. 216, 243) as GBT writes them, and ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np


@dataclass(frozen=True)
class Column:
    """A column: ``kind`` is a NumPy type; ``f8*`` and ``i2*`` have a value for each channel."""

    name: str
    kind: str
    unit: str
    meaning: str


COLUMNS: Final = (
    Column("OBJECT", "S32", "", "source"),
    Column("TELESCOP", "S32", "", "telescope, where L1 names it"),
    Column("PROJID", "S32", "", "project, where L1 names it"),
    Column("SCAN", "i4", "", "scan number"),
    Column("OBSMODE", "S32", "", "procedure:type:mode, as GBT writes it"),
    Column("DATE-OBS", "S26", "", "begin of the integration, UTC"),
    Column("TIMESYS", "S3", "", "UTC"),
    Column("EXPOSURE", "f8", "s", "integration time of this spectrum"),
    Column("DURATION", "f8", "s", "the same"),
    Column("REFEXPOS", "f8", "s", "integration time of its reference"),
    Column("TSYS", "f8", "K", "T_sys (T_A* scale), median of good channels"),
    Column("TRX", "f8", "K", "T_rec (DSB), median of good channels"),
    Column("TEMPSCAL", "S4", "", "TA*, or TA' if not corrected for the atmosphere"),
    Column("BANDWID", "f8", "Hz", "width of the band"),
    Column("FREQRES", "f8", "Hz", "channel spacing"),
    Column("CTYPE1", "S8", "", "FREQ-OBS or FREQ-LSR"),
    Column("CRVAL1", "f8", "Hz", "signal frequency at CRPIX1"),
    Column("CRPIX1", "f8", "", "reference channel, counted from 1"),
    Column("CDELT1", "f8", "Hz", "channel spacing, with its sign"),
    Column("CTYPE2", "S8", "", "RA, GLON, or LON-OFF where no position is known"),
    Column("CRVAL2", "f8", "deg", "longitude of this spectrum"),
    Column("CTYPE3", "S8", "", "DEC, GLAT, or LAT-OFF where no position is known"),
    Column("CRVAL3", "f8", "deg", "latitude of this spectrum"),
    Column("CTYPE4", "S8", "", "STOKES"),
    Column("CRVAL4", "i4", "", "1: L1 does not name polarisations"),
    Column("RADESYS", "S8", "", "ICRS or GALACTIC"),
    Column("EQUINOX", "f8", "", "2000"),
    Column("OFFLON", "f8", "deg", "offset in longitude, a true angle"),
    Column("OFFLAT", "f8", "deg", "offset in latitude"),
    Column("FEEDXOFF", "f8", "deg", "part of OFFLON that is the pixel's"),
    Column("FEEDEOFF", "f8", "deg", "part of OFFLAT that is the pixel's"),
    Column("RESTFREQ", "f8", "Hz", "rest frequency"),
    Column("OBSFREQ", "f8", "Hz", "the same as CRVAL1"),
    Column("IMAGFREQ", "f8", "Hz", "image frequency at CRPIX1"),
    Column("VELDEF", "S8", "", "RADI-OBS or RADI-LSR"),
    Column("VFRAME", "f8", "m/s", "0: the axis is in the frame of CTYPE1"),
    Column("RVSYS", "f8", "m/s", "0"),
    Column("VELOCITY", "f8", "m/s", "0: L1 does not hold the velocity of the source"),
    Column("AZIMUTH", "f8", "deg", "NaN: L1 does not hold it"),
    Column("ELEVATIO", "f8", "deg", "elevation"),
    Column("AIRMASS", "f8", "", "airmass of the transmission"),
    Column("PWV", "f8", "mm", "water vapour"),
    Column("FDNUM", "i4", "", "pixel: axis A"),
    Column("FEED", "i4", "", "pixel, counted from 1"),
    Column("SRFEED", "i4", "", "0: the reference is of the same pixel"),
    Column("PLNUM", "i4", "", "receiver or polarisation: axis R"),
    Column("IFNUM", "i4", "", "band of the scan, counted from 0"),
    Column("SAMPLER", "S32", "", "name of the pixel"),
    Column("FRONTEND", "S32", "", "name of the band"),
    Column("SUBSCAN", "i4", "", "ON subscan in L0"),
    Column("INTNUM", "i4", "", "dump; -1 for a mean over dumps"),
    Column("SIG", "S1", "", "T"),
    Column("CAL", "S1", "", "F"),
    Column("TCAL", "f8", "K", "1: the spectra are calibrated"),
    Column("PROCSEQN", "i4", "", "number of the ON subscan, counted from 1"),
    Column("PROCSIZE", "i4", "", "number of ON subscans"),
    Column("DATA", "f8*", "K", "T_A*; NaN where flagged"),
    Column("FLAGS", "i2*", "", "flag bits of each channel; 0 is good"),
)


def row_type(n_channel: int, spectra: str) -> np.dtype[Any]:
    """The (big-endian) type of a row with so many channels; ``spectra`` is float64 or float32, as in L1."""
    fields: list[tuple[Any, ...]] = []
    for column in COLUMNS:
        kind = np.dtype(spectra).str[1:] if column.name == "DATA" else column.kind.rstrip("*")
        plain = kind if kind.startswith("S") else f">{kind}"
        fields.append((column.name, plain, (n_channel,)) if column.kind.endswith("*") else (column.name, plain))
    return np.dtype(fields)
