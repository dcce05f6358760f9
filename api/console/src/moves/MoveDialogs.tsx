import { AllocateDialog } from './AllocateDialog';
import { BuyDialog } from './BuyDialog';
import { CreditTransferDialog } from './CreditTransferDialog';
import { DeallocateDialog } from './DeallocateDialog';
import { useFilters } from '../app/addresses';

const DIALOGS = {
  transfer: CreditTransferDialog,
  allocate: AllocateDialog,
  deallocate: DeallocateDialog,
  buy: BuyDialog,
};

/** The dialog that the address names (`?do=transfer&for=ann`), so that a reload opens it again. */
export default function MoveDialogs({ orgId }: { orgId: string }) {
  const [asked, change] = useFilters({ do: '', for: '' });
  const Opened = Object.hasOwn(DIALOGS, asked.do)
    ? DIALOGS[asked.do as keyof typeof DIALOGS]
    : null;
  if (!Opened) return null;
  return (
    <Opened
      key={asked.do + asked.for}
      orgId={orgId}
      user={asked.for}
      onClose={() => change({ do: '', for: '' })}
    />
  );
}
